"""Client of a Conch server.

    from conch_client import Client

    with Client("localhost:8001") as client:
        print(client.generate("Triton blows a", max_tokens=16).text)
        with client.stream(messages=[{"role": "user", "content": "Hello!"}]) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)

``Client`` and ``AsyncClient`` speak gRPC, ``HttpClient`` and ``AsyncHttpClient`` HTTP.
"""

from conch_client._contract import CONTROLS
from conch_client.clients import AsyncClient, AsyncHttpClient, Client, HttpClient
from conch_client.errors import (
    AlreadyExistsError,
    CancelledError,
    ConchClientError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from conch_client.metrics import Metrics, Sample
from conch_client.retry import Retry
from conch_client.streams import AsyncStream, Stream
from conch_client.types import (
    Answer,
    Chunk,
    Completion,
    Health,
    Message,
    ModelInfo,
    Parameters,
    PerfMetrics,
    Tls,
)

__all__ = [
    "CONTROLS", "AlreadyExistsError", "Answer", "AsyncClient", "AsyncHttpClient", "AsyncStream", "CancelledError",
    "Chunk", "Client", "Completion", "ConchClientError", "DeadlineExceededError", "FailedPreconditionError", "Health",
    "HttpClient", "InternalError", "InvalidArgumentError", "Message", "Metrics", "ModelInfo", "NotFoundError",
    "Parameters", "PerfMetrics", "PermissionDeniedError", "ResourceExhaustedError", "Retry", "Sample", "Stream", "Tls",
    "UnauthenticatedError", "UnavailableError", "UnsupportedError",
]  # fmt: skip
