"""One class per error code, the same over gRPC and HTTP.

Triton 2.51 does not tell the code of a failed generation to its clients: over gRPC an error is plain text inside the
stream, over HTTP every error of a model is a 400. So the code is read from the text: a Conch server writes it in front
of its messages (``UNAVAILABLE: ...``), and Triton's own messages are known. The header ``triton_grpc_error: true``,
which asks Triton for a gRPC status, must not be sent: 2.51 crashes within some tens of failed requests (measured).
"""

from __future__ import annotations

import re


class ConchClientError(Exception):
    """Base of every error of a request.

    Attributes:
        code: gRPC's name of the error code (UNSUPPORTED for its UNIMPLEMENTED).
        message: what is wrong: field, rule, value.
        retryable: the same request may succeed later.
        request_id: of the request; None where there was none yet.
        retry_after_s: how long the server says to wait before the next try; None: it does not say.
    """

    code = "INTERNAL"
    retryable = False
    retry_after_s: float | None = None

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id


class InvalidArgumentError(ConchClientError):
    """A value that the contract does not allow."""

    code = "INVALID_ARGUMENT"


class NotFoundError(ConchClientError):
    """No such model or version."""

    code = "NOT_FOUND"


class AlreadyExistsError(ConchClientError):
    """What was to be made is there already."""

    code = "ALREADY_EXISTS"


class FailedPreconditionError(ConchClientError):
    """The server's state does not allow it."""

    code = "FAILED_PRECONDITION"


class UnsupportedError(ConchClientError):
    """Legal, but this model or server cannot do it."""

    code = "UNSUPPORTED"


class UnauthenticatedError(ConchClientError):
    """Something in front of the server wants to know who asks."""

    code = "UNAUTHENTICATED"


class PermissionDeniedError(ConchClientError):
    """Something in front of the server does not let this caller in."""

    code = "PERMISSION_DENIED"


class ResourceExhaustedError(ConchClientError):
    """A limit was hit, such as the size of a message."""

    code = "RESOURCE_EXHAUSTED"


class UnavailableError(ConchClientError):
    """Server unreachable, busy or about to stop."""

    code = "UNAVAILABLE"
    retryable = True


class ClosedError(UnavailableError):
    """The client itself was closed."""

    retryable = False

    def __init__(self) -> None:
        super().__init__("the client is closed")


class DeadlineExceededError(ConchClientError):
    """No full answer within ``timeout_s``, or within ``timeout_ms`` of the server's time."""

    code = "DEADLINE_EXCEEDED"


class CancelledError(ConchClientError):
    """The request was given up, here or on the server."""

    code = "CANCELLED"


class InternalError(ConchClientError):
    """A fault of the server."""


_CLASSES: dict[str, type[ConchClientError]] = {
    kind.code: kind
    for kind in (
        InvalidArgumentError, NotFoundError, AlreadyExistsError, FailedPreconditionError, UnsupportedError,
        UnauthenticatedError, PermissionDeniedError, ResourceExhaustedError, UnavailableError, DeadlineExceededError,
        CancelledError, InternalError,
    )
}  # fmt: skip
_CLASSES["UNIMPLEMENTED"] = UnsupportedError
_CLASSES["OUT_OF_RANGE"] = InvalidArgumentError

_HTTP_CODES = {
    401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS", 413: "RESOURCE_EXHAUSTED", 429: "UNAVAILABLE", 499: "CANCELLED", 501: "UNSUPPORTED",
    502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip

# What Triton puts in front of a message on its way through an ensemble.
_TRITON_PREFIX = re.compile(r"^(?:in ensemble '[^']*', |\[request id: [^]]*\] )+")
_CODE_PREFIX = re.compile(rf"^({'|'.join(_CLASSES)}): ")
# What a Conch server whose line is full says at the end.
_TRY_AGAIN = re.compile(r"\bTry again in (\d{1,6}(?:\.\d+)?) s\b")

# Texts of Triton itself whose code gets lost on the way.
_TRITON_TEXTS = (
    (re.compile(r"^Request for unknown model: .* (is not found|version -?\d+ is not found)$"), "NOT_FOUND"),
    (re.compile(r"^Request for unknown model: .*(no available versions|not at ready state)"), "UNAVAILABLE"),
    (re.compile(r"Server is stopping|Exceeds maximum queue size|is not ready"), "UNAVAILABLE"),
    (re.compile(r"generate expects model to produce exactly 1 response"), "UNSUPPORTED"),
    (re.compile(r"^internal error|^Failed to process the request\(s\)|Stub process"), "INTERNAL"),
)


def error_of(code: str, message: str, request_id: str | None = None) -> ConchClientError:
    """The error of a code; codes that are not known give an InternalError."""
    text = _CODE_PREFIX.sub("", _TRITON_PREFIX.sub("", message.strip()))
    error = _CLASSES.get(code, InternalError)(text or code, request_id=request_id)
    wait = _TRY_AGAIN.search(text)
    if wait and error.retryable:
        error.retry_after_s = float(wait[1])
    return error


def error_of_text(message: str, default: str, request_id: str | None = None) -> ConchClientError:
    """The error of a message that came without a code.

    Args:
        message: text of the server; it may start with its code (``UNAVAILABLE: ...``).
        default: code where the text says nothing.
        request_id: of the request.
    """
    text = _TRITON_PREFIX.sub("", message.strip())
    named = _CODE_PREFIX.match(text)
    code = named[1] if named else next((code for known, code in _TRITON_TEXTS if known.search(text)), default)
    return error_of(code, text, request_id)


def error_of_http(status: int, message: str, request_id: str | None = None) -> ConchClientError:
    """The error of an HTTP status and the ``error`` text of its body."""
    if status in _HTTP_CODES:
        return error_of(_HTTP_CODES[status], message or f"HTTP status {status}", request_id)
    default = "INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL"
    return error_of_text(message or f"HTTP status {status}", default, request_id)
