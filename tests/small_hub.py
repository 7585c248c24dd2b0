"""The Hugging Face Hub, played by a server on this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def tree_entry(path: Path) -> dict[str, Any]:
    return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}


class Hub:
    """Answers what huggingface_hub asks for one repository, org/small at main; org/gated is the same with a gate.

    Attributes:
        paths: that were asked for.
        weights_bytes: size that it says of each weights file; 0: its own.
        url: of the Hub.
    """

    def __init__(self, folder: Path) -> None:
        hub = self
        self.paths: list[str] = []
        self.weights_bytes = 0

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                hub.paths.append(self.path)
                body, kind = b"{}", "application/json"
                path = self.path.split("?")[0]
                found = True
                gated = path.startswith("/org/gated/resolve/") and self.headers.get("Authorization") != "Bearer granted"
                path = path.replace("/org/gated", "/org/small")
                if path.startswith(f"/api/models/org/small/tree/{COMMIT}"):
                    body = json.dumps([tree_entry(p) for p in sorted(folder.iterdir())]).encode()
                elif path.startswith("/api/models/org/small"):
                    names = [{"rfilename": p.name, "size": hub.size(p)} for p in sorted(folder.iterdir())]
                    body = json.dumps(
                        {"id": "org/small", "modelId": "org/small", "sha": COMMIT, "siblings": names}
                    ).encode()
                elif path.startswith(f"/org/small/resolve/{COMMIT}/"):
                    body, kind = (folder / path.rsplit("/", 1)[1]).read_bytes(), "application/octet-stream"
                else:
                    found = False
                if gated:
                    found, body = False, b'{"error": "Access to model org/gated is restricted."}'
                self.send_response(200 if found else 401 if gated else 404)
                if not found:
                    self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"' + str(hash(body)) + '"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def size(self, path: Path) -> int:
        return self.weights_bytes if path.suffix == ".safetensors" and self.weights_bytes else path.stat().st_size

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
