"""What a build says while it works: one changing line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

_PLAIN_EVERY_S = 15.0
_REDRAW_EVERY_S = 0.2


class Progress:
    """Prints steps and how far they are.

    Args:
        stream: where to; standard output by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._drawn = False
        self._last_s = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(text, file=self._stream, flush=True)

    def update(self, text: str) -> None:
        """Say how far a long step is; may be called at any rate."""
        now_s = time.monotonic()
        if now_s - self._last_s < (_REDRAW_EVERY_S if self._is_terminal else _PLAIN_EVERY_S):
            return
        self._last_s = now_s
        if not self._is_terminal:
            print(text, file=self._stream, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", file=self._stream, flush=True)
        self._drawn = True

    def begin(self, text: str) -> None:
        """Announce a long step."""
        self._last_s = 0.0
        self.update(text)

    def hint(self, text: str) -> None:
        """Name a step that is short most of the time: on a terminal only."""
        if self._is_terminal:
            self.begin(text)

    def done(self) -> None:
        """End a long step: its line goes from the terminal."""
        self._erase()

    def _erase(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
            self._drawn = False


def format_bytes(count: int) -> str:
    """A size for people: ``93.8 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
