"""Reading from and writing to a terminal or a pipe."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conch_client.errors import CancelledError, ConchClientError, InvalidArgumentError
from conch_client.streams import Stream

_OUTPUTS = ("stdout", "stderr")
# A model may write anything. On a terminal, control characters could move the cursor or do worse.
_CONTROL_CHARACTERS = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@contextmanager
def _ctrl_c_cancels(stream: Stream) -> Iterator[None]:
    """Ctrl-C cancels the stream. A KeyboardInterrupt could come anywhere, also where gRPC is not prepared for it.

    Only the second Ctrl-C interrupts: what waits for a host that says nothing hears no cancel.
    """

    def cancel(*_: object) -> None:
        if stream.is_cancelled:
            raise CancelledError("cancelled by the caller")
        stream.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """Standard input and output."""

    def __init__(self) -> None:
        for name, mode, errors in (("stdin", "r", "surrogateescape"), *((out, "w", "replace") for out in _OUTPUTS)):
            stream = getattr(sys, name)
            if stream is None:  # closed by whoever started us
                setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - as long as the program
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=errors)  # text that is not in its encoding must not end the program
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

    def read_line(self, prompt: str) -> str:
        """A line from standard input, without the space around it.

        Raises:
            EOFError: there are no more.
            InvalidArgumentError: it is not UTF-8. The next one may be.
        """
        line = input(prompt).strip()
        try:
            line.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"a line must be UTF-8, got {os.fsencode(line)!r}") from None
        return line

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

    def error(self, error: ConchClientError) -> None:
        """Print an error as one line to standard error."""
        self.fail(f"conch: {' '.join(error.message.split())}")

    def drop_output(self) -> None:
        """Write no more to standard output, which broke: Python must not try to flush it at exit."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def fail(self, text: str) -> None:
        """Print a line to standard error."""
        self.flush()
        print(text.translate(_CONTROL_CHARACTERS), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Write out what is buffered."""
        sys.stdout.flush()

    def _write(self, text: str) -> None:
        sys.stdout.write(text.translate(_CONTROL_CHARACTERS) if self._is_terminal else text)
