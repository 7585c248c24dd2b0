"""The cache: all or nothing, checked on every use, safe against a kill and against two at once."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conch.build.cache import Cache
from conch.build.progress import Progress
from conch.errors import BuildError


class Maker:
    """Writes one file, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, files_dir: Path) -> dict[str, str]:
        self.calls += 1
        (files_dir / "sub").mkdir()
        (files_dir / "sub/file").write_text("content")
        return {"fact": "1"}


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def cache(tmp_path: Path, said: io.StringIO) -> Cache:
    return Cache(tmp_path / "cache", Progress(said))


def test_made_once(cache: Cache) -> None:
    make = Maker()
    with cache.locked():
        first, second = cache.get("k", "1", make), cache.get("k", "1", make)
    assert make.calls == 1
    assert (first.made, second.made) == (True, False)
    assert first.facts == second.facts == {"fact": "1"}
    assert (second.files_dir / "sub/file").read_text() == "content"


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "no entry", "bad entry"])
def test_damage_is_found_and_mended(cache: Cache, said: io.StringIO, damage: str) -> None:
    make = Maker()
    with cache.locked():
        files_dir = cache.get("k", "1", make).files_dir
        entry = files_dir.parent / "entry.json"
        if damage == "changed":
            (files_dir / "sub/file").write_text("CONTENT")
        elif damage == "missing":
            (files_dir / "sub/file").unlink()
        elif damage == "extra":
            (files_dir / "more").write_text("")
        elif damage == "no entry":
            entry.unlink()
        else:
            entry.write_text('{"files": []}')
        assert cache.find("k", "1") is None
        assert cache.get("k", "1", make).made
        assert cache.find("k", "1") is not None
    assert make.calls == 2
    assert "is damaged: making it again" in said.getvalue()


def test_a_maker_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail(files_dir: Path) -> dict[str, str]:
        (files_dir / "half").write_text("x")
        raise BuildError("no")

    with cache.locked():
        with pytest.raises(BuildError, match="no"):
            cache.get("k", "1", fail)
        assert list((cache.root / "k").iterdir()) == []


CHILD = """
import sys, time
from pathlib import Path
from conch.build.cache import Cache
from conch.build.progress import Progress

def make(files_dir):
    (files_dir / "half").write_text("x")
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    return {}

cache = Cache(Path(sys.argv[1]), Progress())
with cache.locked():
    cache.get("k", "1", make)
print("done", flush=True)
"""


def child(cache: Cache, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(cache.root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_goes_at_the_next_use(cache: Cache, said: io.StringIO) -> None:
    process = child(cache, 600)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "making\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list((cache.root / "k").glob(".staging-*"))) == 1
    with cache.locked():
        assert list((cache.root / "k").iterdir()) == []
        assert cache.get("k", "1", Maker()).made
    assert "a build that was killed left it" in said.getvalue()


def test_the_second_process_waits_and_finds_it_made(cache: Cache) -> None:
    first = child(cache, 0.5)
    assert first.stdout is not None
    assert first.stdout.readline() == "making\n"
    second = child(cache, 600)
    assert second.stdout is not None
    with first.stdout, second.stdout:
        assert second.stdout.readline() == f"another build works in {cache.root}; waiting for it to end\n"
        assert first.stdout.read() == "done\n"
        assert second.stdout.read() == "done\n"
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with (
        pytest.raises(BuildError, match="cache must be a folder, got the file"),
        Cache(tmp_path / "cache", Progress(io.StringIO())).locked(),
    ):
        pass
