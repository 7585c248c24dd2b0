"""A stand-in for tritonserver's HTTP side: answers by a script, and remembers what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from conch.server.settings import Settings

Script = Callable[[str, str], tuple[int, str]]  # path and body of a request -> status and body of the answer


class Asked:
    """Paths that were asked, in order."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.paths: list[str] = []

    def settings(self, folder: Path, **changes: int) -> Settings:
        """Settings of a server that listens here."""
        return Settings(folder / "repository", folder / "run", http_port=self.port, **changes)


@contextmanager
def answering(script: Script) -> Iterator[Asked]:
    """Answer requests until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.paths.append(self.path)
            status, text = script(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked = Asked(server.server_port)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield asked
        server.shutdown()
