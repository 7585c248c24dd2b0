"""Engine without a model: answers with the prompt's own tokens, over and over, at a set pace.

TTFT and ITL are exact to the timer's resolution, so whatever else a client measures is the cost of what lies between.
"""

from __future__ import annotations

import heapq
import threading
import time
from dataclasses import dataclass, field

from conch.engines.base import Engine, GenerationRequest, Tokens, TokenSink
from conch.errors import UnavailableError
from conch.spec import Engine as EngineSpec


@dataclass(order=True)
class _Turn:
    due_ns: int
    request_id: int
    request: GenerationRequest = field(compare=False)
    sent_tokens: int = field(compare=False, default=0)


class EchoEngine(Engine):
    """Plays each prompt back: first token after echo_ttft_ms, the next ones every echo_itl_ms, up to max_tokens.

    Token n of the answer is token n modulo the prompt's length of the prompt. It ends early at an end id.

    Args:
        spec: engine section of the spec.
        sink: where tokens go.
    """

    def __init__(self, spec: EngineSpec, sink: TokenSink) -> None:
        self._ttft_ns = round(spec.echo_ttft_ms * 1e6)
        self._itl_ns = round(spec.echo_itl_ms * 1e6)
        self._capacity = spec.max_batch_size
        self._sink = sink
        self._turns: list[_Turn] = []
        self._waiting: list[GenerationRequest] = []
        self._playing: set[int] = set()  # out of _turns, on the way to the sink
        self._cancelled: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="echo-step", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        with self._changed:
            if self._closed:
                raise UnavailableError("the engine is shutting down")
            self._waiting.append(request)
            self._changed.notify()

    def cancel(self, request_id: int) -> None:
        with self._changed:
            if request_id in self._playing or any(t.request_id == request_id for t in self._turns):
                self._cancelled.add(request_id)
            self._waiting = [r for r in self._waiting if r.request_id != request_id]
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._admit()
                while not self._closed and (wait_s := self._wait_s()) != 0:
                    self._changed.wait(wait_s)
                    self._admit()
                if self._closed:
                    break
                due = self._take_due()
            for turn in due:
                if turn.request_id not in self._cancelled:
                    self._play(turn)
            self._sink.step_done()
        for request in [*(t.request for t in self._turns), *self._waiting]:
            self._sink.failed(request.request_id, UnavailableError("the engine is shutting down"))
        self._sink.step_done()

    def _admit(self) -> None:
        if self._cancelled:
            self._turns = [t for t in self._turns if t.request_id not in self._cancelled]
            heapq.heapify(self._turns)
            self._cancelled.clear()
        self._playing.clear()
        while self._waiting and len(self._turns) < self._capacity:
            request = self._waiting.pop(0)
            heapq.heappush(self._turns, _Turn(time.monotonic_ns() + self._ttft_ns, request.request_id, request))

    def _wait_s(self) -> float | None:
        if not self._turns:
            return None
        return max(0, self._turns[0].due_ns - time.monotonic_ns()) / 1e9

    def _take_due(self) -> list[_Turn]:
        now = time.monotonic_ns()
        due = []
        while self._turns and self._turns[0].due_ns <= now:
            due.append(heapq.heappop(self._turns))
        self._playing = {turn.request_id for turn in due}
        return due

    def _play(self, turn: _Turn) -> None:
        request = turn.request
        token = int(request.input_ids[turn.sent_tokens % len(request.input_ids)])
        turn.sent_tokens += 1
        reason = None
        if token in request.params.end_ids and turn.sent_tokens > request.params.min_tokens:
            reason = "stop"
        elif turn.sent_tokens == request.params.max_tokens:
            reason = "length"
        self._sink.tokens(Tokens(turn.request_id, [token], reason))
        if reason is None:  # if it was cancelled meanwhile, _admit removes it again
            turn.due_ns += self._itl_ns
            with self._changed:
                heapq.heappush(self._turns, turn)
