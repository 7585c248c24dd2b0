"""What an engine's process and its parent say to each other; pickled, over a socket that nobody else holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conch.engines.base import EngineState, Event, Failure, GenerationRequest, Tokens
from conch.errors import ConchError


@dataclass(frozen=True)
class Started:
    """The engine is loaded, or, with an error, cannot be."""

    error: ConchError | None


@dataclass(frozen=True)
class Step:
    """Everything that one step produced, and now and then how the engine is.

    As long as there are requests one comes at least every conch.engines.worker.STATE_EVERY_S, or with every step
    where those take longer: who hears nothing for long knows that the worker hangs.
    """

    events: list[Event]
    state: EngineState | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Tokens as plain tuples: pickling an object takes five times as long, and the engine waits for it.
        packed = [
            e if isinstance(e, Failure) else (e.request_id, e.ids, e.finish_reason, e.log_probs, e.sequence)
            for e in self.events
        ]
        return _unpack, (packed, self.state)


def _unpack(packed: list[Failure | tuple[Any, ...]], state: EngineState | None) -> Step:
    return Step([e if isinstance(e, Failure) else Tokens(*e) for e in packed], state)


@dataclass(frozen=True)
class Cancel:
    """Give a request up. Answered with a Step that holds the state."""

    request_id: int


Command = GenerationRequest | Cancel
Message = Started | Step
