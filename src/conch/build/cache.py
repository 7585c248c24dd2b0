"""Keeps what a build made, so that the next one need not: one folder for each thing, checked whenever it is used.

A thing is written into a staging folder and renamed when it is whole, so whoever looks sees all of it or nothing, and
a build that is killed leaves a staging folder at most. One process at a time works in a cache. Its lock goes with it,
however it ends, and whoever holds the lock may clear away every staging folder.

    <cache>/<kind>/<key>/entry.json     checksum and size of every file, and facts
    <cache>/<kind>/<key>/files/...
    <cache>/<kind>.json                 notes: what a name stood for last
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from conch.build.disk import disk_errors
from conch.build.progress import Progress
from conch.errors import BuildError
from conch.repository.manifest import FileEntry, file_entry

LOCK_FILE = ".lock"
_ENTRY_FILE = "entry.json"
_FILES = "files"
_STAGING_PREFIX = ".staging-"


@dataclass(frozen=True)
class CacheEntry:
    """A finished thing.

    Attributes:
        files_dir: folder of its files. Whoever uses them links or copies, and never changes them.
        files: path below files_dir -> checksum and size.
        facts: what else its maker found out.
        made: it was not there before.
    """

    files_dir: Path
    files: dict[str, FileEntry]
    facts: dict[str, str]
    made: bool = False


class Cache:
    """A cache folder; made on first use.

    Args:
        root: the folder.
        progress: is told what is cleared away and what is waited for.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self._progress = progress

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who works here; waits for a build that does.

        Raises:
            BuildError: the folder cannot be made or written.
        """
        with disk_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise BuildError(f"cache must be a folder, got the file {self.root}") from None
            lock = (self.root / LOCK_FILE).open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.say(f"another build works in {self.root}; waiting for it to end")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for path in self.root.glob(f"*/{_STAGING_PREFIX}*"):
                self._progress.say(f"removing {path}: a build that was killed left it")
                shutil.rmtree(path, ignore_errors=True)
            yield

    def find(self, kind: str, key: str) -> CacheEntry | None:
        """A thing that is there and whole; None if it is missing or anything about it was changed."""
        folder = self.root / kind / key
        try:
            data = json.loads((folder / _ENTRY_FILE).read_text(encoding="utf-8"))
            files = {name: FileEntry(**entry) for name, entry in data["files"].items()}
            entry = CacheEntry(folder / _FILES, files, dict(data["facts"]))
            return entry if _files_in(entry.files_dir) == files else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def files_dir(self, kind: str, key: str) -> Path:
        """Where the files of a thing are if it is there; nothing is looked at."""
        return self.root / kind / key / _FILES

    def note(self, kind: str, name: str, value: str) -> None:
        """Write down what a name stands for now; unlike that of a thing, its meaning may change."""
        notes = self._notes(kind)
        if notes.get(name) == value:
            return
        path = self.root / f"{kind}.json"
        with disk_errors(self.root):
            beside = path.with_suffix(".new")
            beside.write_text(json.dumps({**notes, name: value}, indent=2) + "\n", encoding="utf-8")
            beside.replace(path)

    def noted(self, kind: str, name: str) -> str | None:
        """What note was last told; None where it was not."""
        return self._notes(kind).get(name)

    def _notes(self, kind: str) -> dict[str, str]:
        try:
            data = json.loads((self.root / f"{kind}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(k): str(v) for k, v in data.items()} if isinstance(data, dict) else {}

    def get(self, kind: str, key: str, make: Callable[[Path], dict[str, str]]) -> CacheEntry:
        """A thing from the cache, or made now.

        Args:
            kind, key: name it; equal names mean equal content.
            make: writes the files into the folder that it is given, and returns facts.

        Raises:
            BuildError: no space; and whatever ``make`` raises. Nothing is left behind.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        target = self.root / kind / key
        with disk_errors(self.root):
            if target.exists():
                self._progress.say(f"{target} is damaged: making it again")
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            # Its name alone: whether the path is made absolute depends on the version of Python.
            staging = target.parent / Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=target.parent)).name
            try:
                files_dir = staging / _FILES
                files_dir.mkdir()
                facts = make(files_dir)
                files = _files_in(files_dir)
                text = json.dumps({"files": {n: asdict(e) for n, e in files.items()}, "facts": facts}, indent=2)
                (staging / _ENTRY_FILE).write_text(text + "\n", encoding="utf-8")
                staging.rename(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return CacheEntry(target / _FILES, files, facts, made=True)


def _files_in(folder: Path) -> dict[str, FileEntry]:
    paths = sorted(p for p in folder.rglob("*") if not p.is_dir())
    return {str(p.relative_to(folder)): file_entry(p) for p in paths}
