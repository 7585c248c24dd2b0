"""One response per request, whatever happens: an error of one request never reaches the others of its batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import triton_python_backend_utils as pb_utils

from conch.errors import ConchError, InternalError
from conch.triton.codec import error_response

_log = logging.getLogger(__name__)


def run_each(
    requests: Sequence[pb_utils.InferenceRequest],
    handle: Callable[[pb_utils.InferenceRequest], pb_utils.InferenceResponse],
) -> list[pb_utils.InferenceResponse]:
    """Apply ``handle`` to each request; what it raises becomes that request's error response."""
    return [_guarded(request, handle) for request in requests]


def _guarded(
    request: pb_utils.InferenceRequest,
    handle: Callable[[pb_utils.InferenceRequest], pb_utils.InferenceResponse],
) -> pb_utils.InferenceResponse:
    try:
        return handle(request)
    except Exception as error:
        return error_response(as_conch_error(error))


def as_conch_error(error: Exception) -> ConchError:
    """The error itself if it is ours; else a general one, and the cause goes to the log."""
    if isinstance(error, ConchError):
        return error
    _log.error("unexpected error", exc_info=error)
    return InternalError(f"internal error ({type(error).__name__}); the cause is in the server's log")
