"""A sink that remembers, and requests for engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from conch.engines.base import EngineState, GenerationRequest, Tokens
from conch.errors import ConchError
from conch.sampling import Limits, resolve
from conch.spec import Runtime

TIMEOUT_S = 60
LIMITS = Limits(
    vocab_size=1000,
    max_input_len=9_999,
    max_seq_len=10_000,
    default_max_tokens=8,
    eos_token_ids=(2,),
    pad_token_id=0,
    max_stop_words=4,
    max_stop_word_chars=16,
    max_sequences=8,
    max_guide_bytes=1000,
    runtime=Runtime.OPENVINO,
)


def generation_request(request_id: int, ids: Sequence[int], **controls: Any) -> GenerationRequest:
    """A request with controls under their public names."""
    return GenerationRequest(request_id, list(ids), resolve(controls, len(ids), LIMITS))


class Sink:
    """Remembers what an engine delivers.

    Attributes:
        events: (request id, ids, finish reason), or (request id, the error), in order.
        started: requests that left the queue.
        states: news of the engine.
        on_tokens: called on the engine's thread after tokens were noted.
    """

    def __init__(self) -> None:
        self.events: list[tuple[int, list[int], str | None] | tuple[int, ConchError]] = []
        self.steps = 0
        self.started: list[int] = []
        self.states: list[EngineState] = []
        self.on_tokens: Callable[[int], None] | None = None
        self._changed = threading.Condition()

    def scheduled(self, request_id: int) -> None:
        self.started.append(request_id)

    def state(self, state: EngineState) -> None:
        self.states.append(state)

    def tokens(self, event: Tokens) -> None:
        with self._changed:
            self.events.append((event.request_id, event.ids, event.finish_reason))
            self._changed.notify_all()
        if self.on_tokens is not None:
            self.on_tokens(event.request_id)

    def failed(self, request_id: int, error: ConchError) -> None:
        with self._changed:
            self.events.append((request_id, error))
            self._changed.notify_all()

    def step_done(self) -> None:
        with self._changed:
            self.steps += 1
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true; it is looked at after every event."""
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT_S), self.events

    def wait_end(self, request_id: int) -> tuple[list[int], str | ConchError]:
        """Wait for the end of a request: all its ids, and its finish reason or error."""
        self.wait(lambda: self.end(request_id) is not None)
        end = self.end(request_id)
        assert end is not None
        return self.ids(request_id), end

    def end(self, request_id: int) -> str | ConchError | None:
        """How a request ended so far."""
        for event in self.events:
            if event[0] == request_id and event[-1] is not None:
                assert not isinstance(event[-1], list)
                return event[-1]
        return None

    def ids(self, request_id: int) -> list[int]:
        """Ids of a request so far."""
        return [i for event in self.events if event[0] == request_id and len(event) == 3 for i in event[1]]
