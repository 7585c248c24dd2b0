"""A GGUF file that may only be read: OpenVINO gets a copy that it may open for writing."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conch.engines.gguf_file import writable
from conch.errors import RepositoryError

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may look into, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "model.gguf").write_bytes(b"GGUF" * 1000)
        (path / "model.gguf").chmod(0o444)
        yield path


def as_nobody(check: Callable[[], None]) -> None:
    """Run a check in a process without root's right to write everything."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresuid(NOBODY, NOBODY, NOBODY)
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_that_may_be_written_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with writable(path) as given:
        assert given == path
    assert path.read_bytes() == b"GGUF"


def test_one_that_may_only_be_read_is_copied_for_a_while(folder: Path) -> None:
    path = folder / "model.gguf"

    def check() -> None:
        with writable(path) as given:
            assert given != path
            with given.open("r+b") as file:  # as OpenVINO does
                assert file.read() == path.read_bytes()
        assert not given.parent.exists()

    as_nobody(check)


def test_no_room_for_the_copy_is_said(folder: Path) -> None:
    path = folder / "model.gguf"

    def check() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # a disk that takes no more
        with pytest.raises(RepositoryError, match="File too large") as caught, writable(path):
            pass
        assert "TMPDIR" in caught.value.mend

    as_nobody(check)
