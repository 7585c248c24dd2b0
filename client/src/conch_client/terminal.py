"""Reading from and writing to a terminal or a pipe."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from conch_client.errors import ConchClientError, InvalidArgumentError
from conch_client.streams import Stream

# A model may write anything. On a terminal, control characters could move the cursor or do worse.
_CONTROL_CHARACTERS = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@contextmanager
def _ctrl_c_cancels(stream: Stream) -> Iterator[None]:
    """Ctrl-C cancels the stream. A KeyboardInterrupt could come anywhere, also where gRPC is not prepared for it."""
    before = signal.signal(signal.SIGINT, lambda *_: stream.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """Standard input and output."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 must not end the program
        self._is_terminal = sys.stdout.isatty()

    def read_all(self) -> str:
        """Everything on standard input.

        Raises:
            InvalidArgumentError: it is not UTF-8.
        """
        try:
            return sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(f"standard input must be UTF-8: {error}") from None

    def line(self, text: str = "") -> None:
        """Print a line."""
        self._write(text + "\n")

    def answer(self, stream: Stream) -> None:
        """Print an answer as it comes, and the end of its line whatever happens.

        Raises:
            CancelledError: Ctrl-C.
            ConchClientError: as the stream does.
        """
        try:
            with _ctrl_c_cancels(stream):
                for chunk in stream:
                    self._write(chunk.text)
                    self.flush()
        except ConchClientError:
            if stream.text:
                self._write("\n")
            raise
        self._write("\n")

    def fail(self, text: str) -> None:
        """Print a line to standard error."""
        self.flush()
        print(text.translate(_CONTROL_CHARACTERS), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Write out what is buffered."""
        sys.stdout.flush()

    def _write(self, text: str) -> None:
        sys.stdout.write(text.translate(_CONTROL_CHARACTERS) if self._is_terminal else text)
