"""What an engine is: token ids in, token ids out, in batches that form and dissolve while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from conch.errors import ConchError
from conch.sampling import SamplingParams


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        request_id: unique in the life of the engine.
        input_ids: prompt; every id is in the vocabulary, the length within the limits (checked before).
        params: controls, validated.
    """

    request_id: int
    input_ids: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True)
class EngineState:
    """What an engine says of itself now and then.

    Attributes:
        kv_cache_usage: share of the KV cache's blocks in use, in [0, 1].
        prefix_query_tokens: prompt tokens that were looked up in the prefix cache since the engine began.
        prefix_hit_tokens: those of them that were found.
    """

    kv_cache_usage: float = 0.0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0


class TokenSink(Protocol):
    """Where an engine delivers. Called from the engine's own thread: must return at once and never raise."""

    def scheduled(self, request_id: int) -> None:
        """A request has left the queue."""

    def tokens(self, event: Tokens) -> None:
        """New tokens of a request."""

    def failed(self, request_id: int, error: ConchError) -> None:
        """The request ended without an answer. Between steps, too; no ``step_done`` need follow."""

    def step_done(self) -> None:
        """A step of the engine is over: everything that it produced has been delivered."""

    def state(self, state: EngineState) -> None:
        """News of the engine."""


@dataclass(frozen=True)
class Tokens:
    """New tokens of a request, at least one unless it ends.

    Attributes:
        request_id: whose.
        ids: token ids.
        finish_reason: stop or length, with the last tokens; None before.
        log_probs: one per token if the request asked for them, else empty.
        sequence: which of the request's answers. Only a request for one answer gets it in pieces.
    """

    request_id: int
    ids: list[int]
    finish_reason: str | None
    log_probs: list[float] = field(default_factory=list)
    sequence: int = 0


@dataclass(frozen=True)
class Failure:
    """A request that ended without an answer."""

    request_id: int
    error: ConchError


Event = Tokens | Failure
CANCEL_STEPS = 2  # steps of a Batcher after which its state tells that what a cancelled request held is free


class Batcher(Protocol):
    """An engine's core, driven step by step by one thread: what a worker process runs."""

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""

    def add(self, request: GenerationRequest) -> None:
        """Take a request into the batch.

        Raises:
            InvalidArgumentError: the engine refuses it.
        """

    def cancel(self, request_id: int) -> None:
        """Give a request up; unknown ids are ignored."""

    def step(self) -> list[Event]:
        """Compute one step.

        Returns:
            What it produced, at most one event for each sequence of a request.
        """

    def state(self) -> EngineState:
        """News of the engine."""


class Report(Protocol):
    """What a streaming core tells of itself. Called on its event loop."""

    def events(self, events: Sequence[Event]) -> None:
        """Something was produced; the last tokens of a request's answers, where it has several, all at once."""

    def alive(self) -> None:
        """The engine has done a step, whatever came of it."""

    def broken(self, reason: str) -> None:
        """The engine will never answer again."""


class StreamingCore(Protocol):
    """An engine's core that runs by itself, on an event loop: what a worker process runs for asynchronous engines."""

    def add(self, request: GenerationRequest) -> None:
        """Take a request; what comes of it is reported.

        Raises:
            ConchError: the engine refuses it.
        """

    def cancel(self, request_id: int) -> None:
        """Give a request up; unknown ids are ignored."""

    def state(self) -> EngineState:
        """News of the engine."""

    async def close(self) -> None:
        """Let go of everything; requests in flight end without a word."""


class Engine(Protocol):
    """A running engine. Its methods may be called from any thread."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            ConchError: the engine cannot take it.
        """

    def cancel(self, request_id: int) -> None:
        """Give a request up and free what it holds; nothing more is delivered for it. Unknown ids are ignored."""

    def close(self) -> None:
        """Stop. Requests in flight end with UnavailableError."""
