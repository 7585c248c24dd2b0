"""Reads a growing log file in pieces."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

_BLOCK_BYTES = 1 << 16


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
