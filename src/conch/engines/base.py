"""What an engine is: token ids in, token ids out, in batches that form and dissolve while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


class TokenSink(Protocol):
    """Where an engine delivers. Called from the engine's own thread: must return at once and never raise."""

    def tokens(self, request_id: int, ids: list[int], finish_reason: str | None) -> None:
        """New tokens of a request, at least one unless it ends; finish_reason (stop, length) ends it."""

    def failed(self, request_id: int, error: ConchError) -> None:
        """The request ended without an answer."""

    def step_done(self) -> None:
        """A step of the engine is over: everything that it produced has been delivered."""


@dataclass(frozen=True)
class Tokens:
    """New tokens of a request; see TokenSink.tokens."""

    request_id: int
    ids: list[int]
    finish_reason: str | None


@dataclass(frozen=True)
class Failure:
    """A request that ended without an answer."""

    request_id: int
    error: ConchError


Event = Tokens | Failure


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
            What it produced, at most one event for each request.
        """


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
