"""Reads a growing log file in pieces, and keeps one small: copied to stdout where that is what is kept, else set aside.

Whoever writes the log must append: the file is cut to nothing while they have it open.
"""

from __future__ import annotations

import codecs
import os
import shutil
import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType

_BLOCK_BYTES = 1 << 16
_LOOK_EVERY_S = 0.2
MAX_BYTES = 64 << 20
# A copied log is emptied when it is larger: where stdout is kept, its file often lies in memory.
COPIED_MAX_BYTES = 16 << 20


class Follower:
    """Gives what was written to a file since the last read; starts over when the file was replaced.

    Args:
        path: the file; may come into being later.
        lines: how many of its last lines the first read gives; None: all of it.
    """

    def __init__(self, path: Path, *, lines: int | None = None) -> None:
        self._path = path
        self._offset_bytes = 0 if lines is None else _offset_of_last_lines(path, lines)
        self._inode: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def read(self) -> str:
        """What is new; empty where nothing is."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if (self._inode is not None and stat.st_ino != self._inode) or stat.st_size < self._offset_bytes:
                    self._offset_bytes = 0
                    self._decoder.reset()
                self._inode = stat.st_ino
                file.seek(self._offset_bytes)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._offset_bytes += len(data)
        return self._decoder.decode(data)


class _Keeper(AbstractContextManager[None]):
    """Looks at a log every now and then, in a thread of its own, for as long as the block lasts."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            self._look()
        self._look()

    @abstractmethod
    def _look(self) -> None: ...


class Copier(_Keeper):
    """Context manager that hands on a log's new lines, and empties the file when it is large.

    What is written between the last look and the cut is lost, which is microseconds long.

    Args:
        path: the log; may come into being later. What is in it already is left out.
        say: takes text of one or more lines, without the last line end.
        max_bytes: when to empty the file.
    """

    def __init__(self, path: Path, say: Callable[[str], None], max_bytes: int = COPIED_MAX_BYTES) -> None:
        super().__init__()
        self._path, self._say, self._max_bytes = path, say, max_bytes
        self._follower = Follower(path, lines=0)
        self._rest = ""  # of a line that is not complete

    def _run(self) -> None:
        super()._run()
        if self._rest:
            self._say(self._rest)

    def _look(self) -> None:
        lines, end, self._rest = (self._rest + self._follower.read()).rpartition("\n")
        if end:
            self._say(lines)
        if _size_bytes(self._path) > self._max_bytes:
            with suppress(FileNotFoundError):
                os.truncate(self._path, 0)


class Rotator(_Keeper):
    """Context manager that sets a log aside when it is large, and lets it begin anew; one old file is kept.

    It is copied and then cut, since its writers hold it open. What they write between the two is lost, which is
    microseconds long; where there is no room for the copy, all of it is.

    Args:
        path: the log; may come into being later.
        former: where the one before goes.
        max_bytes: of each of the two.
    """

    def __init__(self, path: Path, former: Path, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._path, self._former, self._max_bytes = path, former, max_bytes

    def _look(self) -> None:
        if _size_bytes(self._path) <= self._max_bytes:
            return
        beside = self._former.with_name(f"{self._former.name}.new")
        with suppress(OSError):
            with self._path.open("rb") as log, beside.open("wb") as copy:
                shutil.copyfileobj(log, copy)
                copy.flush()
                shutil.copyfileobj(log, copy)  # what came meanwhile
            beside.replace(self._former)
        beside.unlink(missing_ok=True)
        with suppress(OSError):
            os.truncate(self._path, 0)


def _size_bytes(path: Path) -> int:
    """Size of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _offset_of_last_lines(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines begin, read from the end: a log may be large."""
    try:
        with path.open("rb") as file:
            end = position = file.seek(0, os.SEEK_END)
            if lines == 0:
                return end
            tail = b""
            while position > 0 and tail.rstrip(b"\n").count(b"\n") < lines:
                step = min(_BLOCK_BYTES, position)
                position -= step
                file.seek(position)
                tail = file.read(step) + tail
    except FileNotFoundError:
        return 0
    kept = tail.splitlines(keepends=True)[-lines:]
    return end - sum(len(line) for line in kept)
