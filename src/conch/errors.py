"""One hierarchy of errors: each has a code and says whether a retry can help.

A message names the field, the rule and the value: ``top_p must be in [0, 1], got 3``. What a person can do about
it (the mend) is a sentence of its own, so that command line tools can print it on a line of its own. The triton
room maps ``code`` to a ``TritonError``; Triton maps that to a gRPC status or an HTTP status.
"""

from __future__ import annotations

from enum import Enum


class Code(str, Enum):
    """Error codes, named as gRPC names them."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    UNSUPPORTED = "UNSUPPORTED"
    UNAVAILABLE = "UNAVAILABLE"
    CANCELLED = "CANCELLED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


class ConchError(Exception):
    """Base of every error that Conch raises on purpose.

    Args:
        message: what is wrong: field, rule, value. Shown to the caller.
        mend: what to do about it, one sentence; empty where there is nothing to say.
    """

    code: Code = Code.INTERNAL
    retryable: bool = False

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}. {self.mend}" if self.mend else self.message


class InvalidArgumentError(ConchError):
    """The caller sent a value that the contract does not allow."""

    code = Code.INVALID_ARGUMENT


class UnsupportedError(ConchError):
    """The value is legal, but this model or runtime cannot honour it."""

    code = Code.UNSUPPORTED


class NotFoundError(ConchError):
    """A model, version or file that was named does not exist."""

    code = Code.NOT_FOUND


class UnavailableError(ConchError):
    """Cannot be served now; the same request may succeed later."""

    code = Code.UNAVAILABLE
    retryable = True


class CancelledError(ConchError):
    """The caller gave the request up."""

    code = Code.CANCELLED


class DeadlineExceededError(ConchError):
    """The caller's time limit has passed, or cannot be met: the next answer would be as late."""

    code = Code.DEADLINE_EXCEEDED


class InternalError(ConchError):
    """A fault of ours. The cause is in the log, never in the message."""


class SpecError(InvalidArgumentError):
    """A model spec (YAML) has an unknown key or an impossible value."""


class BuildError(ConchError):
    """A build step could not be done: source missing, checksum wrong, disk full, export failed."""

    code = Code.FAILED_PRECONDITION


class RepositoryError(ConchError):
    """The model repository is incomplete, or a file in it was changed."""

    code = Code.FAILED_PRECONDITION


class ServerError(ConchError):
    """Triton could not be started, or stopped by itself."""

    code = Code.FAILED_PRECONDITION
