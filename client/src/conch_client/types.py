"""What a client takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict


class Message(TypedDict):
    """One turn of a chat. The model's chat template says which roles and what content it takes."""

    role: str
    content: Any


class Chunk(NamedTuple):
    """One piece of a streamed answer.

    Attributes:
        text: the new text; pieces joined are the whole answer.
        finish_reason: stop, length or cancelled on the last chunk, None before.
        num_output_tokens: tokens of this chunk alone; None if the server did not say.
        num_input_tokens: tokens of the prompt; None if the server did not say.
        model_version: version that answers.
    """

    text: str
    finish_reason: str | None = None
    num_output_tokens: int | None = None
    num_input_tokens: int | None = None
    model_version: str = ""


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Attributes:
        text: the answer.
        finish_reason: stop, length or cancelled; None if the server did not say.
        num_input_tokens, num_output_tokens: tokens of prompt and answer; None if the server did not say.
        request_id: the caller's, or the one that the client made.
        model_version: version that answered.
    """

    text: str
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int | None
    request_id: str
    model_version: str


@dataclass(frozen=True)
class ModelInfo:
    """One version of a model in the server's repository.

    Attributes:
        name, version: as in the repository; version is "" for a model that was never loaded.
        state: READY, UNAVAILABLE, LOADING or UNLOADING; "" for a model that was never loaded.
        reason: why it is unavailable.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class Health:
    """How a server does.

    Attributes:
        live: the process answers.
        ready: what the server says of itself. False while any model loads, and after a load that failed, even though
            the loaded models go on serving; so ``ok`` does not look at it.
        models: ensemble -> may be asked now. The client's own model is always among them.
        detail: why the server is not live.
    """

    live: bool
    ready: bool
    models: dict[str, bool] = field(default_factory=dict)
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Live, and each ensemble is ready."""
        return self.live and all(self.models.values())


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for TLS.

    Attributes:
        ca_file: certificates to trust; default: the system's (gRPC: its own list).
        cert_file, key_file: the client's certificate and key, where the server asks for one.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
