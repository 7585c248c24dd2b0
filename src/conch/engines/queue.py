"""The line in front of an engine: how many may wait, how long, and who goes first.

An engine takes any number of requests and lets those wait that do not fit. This one hands it no more than it computes
at once, and keeps the rest in order of priority, so that a request can be refused while it still costs nothing.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from conch.contract import TIMEOUT_MS
from conch.engines.base import Engine, EngineState, GenerationRequest, Tokens, TokenSink
from conch.engines.pace import Course, Pace, least_tokens
from conch.errors import ConchError, DeadlineExceededError, UnavailableError

_SMOOTHING = 0.1  # weight of the newest request in the average time that a request takes


@dataclass(order=True)
class _Entry:
    """A request in the line or in the engine."""

    priority: int
    number: int
    request: GenerationRequest = field(compare=False)
    arrived_s: float = field(compare=False)
    scheduled_s: float = field(compare=False, default=0.0)
    open_sequences: int = field(compare=False, default=1)
    held: bool = field(compare=False, default=False)
    course: Course = field(compare=False, default_factory=Course)

    @property
    def weight(self) -> int:
        """Sequences that it takes of the engine's batch."""
        params = self.request.params
        return max(params.beam_width, params.num_sequences)


@dataclass(frozen=True)
class Load:
    """Rows in the line, and rows in the engine."""

    waiting: int
    running: int


class RequestQueue(Engine, TokenSink):
    """An engine that holds requests back.

    Set ``engine`` before the first request; its sink must be this object.

    Args:
        capacity: sequences that the engine computes at once.
        max_queue_size: most rows that wait; 0: no limit.
        queue_timeout_s: longest wait; 0: no limit.
        sink: where tokens go.
    """

    engine: Engine

    def __init__(self, capacity: int, max_queue_size: int, queue_timeout_s: float, sink: TokenSink) -> None:
        self._capacity, self._max_queue_size, self._queue_timeout_s = capacity, max_queue_size, queue_timeout_s
        self._sink = sink
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._numbers = itertools.count()
        self._line: list[_Entry] = []  # in the order of their turns
        self._held: set[int] = set()
        self._waiting: dict[int, _Entry] = {}  # those in the line and those held
        self._running: dict[int, _Entry] = {}
        self._used = 0
        self._mean_s = 0.0  # time in the engine of a request that got its answer
        self._pace = Pace()
        self._closed = False
        self._timer = threading.Thread(target=self._watch_times, name="queue-timer", daemon=True)
        self._timer.start()

    @property
    def load(self) -> Load:
        """How many there are."""
        return Load(len(self._waiting), len(self._running))

    # --- Engine ------------------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, held: bool = False) -> None:
        """Queue a request.

        Args:
            request: as of conch.engines.base.Engine.
            held: it waits outside the line, with the limits of those in it, until ``release`` or ``refuse`` is called.
                Half of the places in the line are for such requests.

        Raises:
            UnavailableError: the line is full, or the engine is going down or away.
            DeadlineExceededError: its turn would come too late, or its answer cannot be there in time.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError("the engine is shutting down")
            params = request.params
            entry = _Entry(
                params.priority, next(self._numbers), request, time.monotonic(),
                open_sequences=params.num_sequences, held=held,
            )  # fmt: skip
            if not held and not self._line and self._used + entry.weight <= self._capacity:
                self._check_deadline(entry, 0.0)
                self._start(entry)
                return
            wait_s = self._mean_s * (bisect_left(self._line, entry) + 1) / self._capacity
            self._check_room(entry, wait_s)
            self._check_deadline(entry, wait_s)
            self._waiting[request.request_id] = entry
            if held:
                self._held.add(request.request_id)
            else:
                insort(self._line, entry)
            self._changed.notify()

    def holds(self, request_id: int) -> bool:
        """Whether a request that was held still is."""
        with self._lock:
            return request_id in self._held

    def release(self, request_id: int) -> None:
        """Let a request that was held take its turn; unknown ids are ignored."""
        with self._lock:
            if request_id in self._held:
                self._held.remove(request_id)
                entry = self._waiting[request_id]
                entry.held = False
                insort(self._line, entry)
                self._start_next()

    def refuse(self, request_id: int, error: ConchError) -> None:
        """End a request that waits; others are left alone."""
        with self._lock:
            dropped = self._drop_waiting(request_id)
            self._start_next()
        if dropped:
            self._sink.failed(request_id, error)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            if not self._drop_waiting(request_id) and self._end(request_id) is not None:
                self.engine.cancel(request_id)
            self._start_next()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._changed.notify()
        for request_id in waiting:
            self.refuse(request_id, UnavailableError("the engine is shutting down"))
        self.engine.close()
        self._timer.join()

    # --- TokenSink: what the engine delivers -------------------------------------------------------------------------

    def scheduled(self, request_id: int) -> None:
        """Nothing: the engine has no line of its own."""

    def tokens(self, event: Tokens) -> None:
        self._sink.tokens(event)
        entry = self._running.get(event.request_id)
        if entry is not None:
            self._pace.tokens(entry.course, entry.request.params, event)
        if event.finish_reason is not None:
            with self._lock:
                entry = self._running.get(event.request_id)
                if entry is not None:
                    entry.open_sequences -= 1
                    if entry.open_sequences <= 0:
                        self._end(event.request_id, finished=True)
                        self._start_next()

    def failed(self, request_id: int, error: ConchError) -> None:
        self._sink.failed(request_id, error)
        with self._lock:
            if self._end(request_id) is not None:
                self._start_next()

    def step_done(self) -> None:
        self._sink.step_done()

    def state(self, state: EngineState) -> None:
        self._sink.state(state)

    # --- under the lock ----------------------------------------------------------------------------------------------

    def _check_room(self, entry: _Entry, wait_s: float) -> None:
        """Refuse a request for which there is no room to wait."""
        full = len(self._waiting) >= self._max_queue_size
        if entry.held:  # so that they never keep out the others
            full = full or len(self._held) >= math.ceil(self._max_queue_size / 2)
        if self._max_queue_size and full:
            raise UnavailableError(
                f"maximum queue size of {self._max_queue_size} reached",
                mend=f"Try again in {max(1, math.ceil(wait_s))} s",
            )

    def _check_deadline(self, entry: _Entry, wait_s: float) -> None:
        """Refuse a request whose time limit is over before its turn, or before the least that it asks for is done."""
        params = entry.request.params
        if params.timeout_ms is None:
            return
        least_s = self._pace.least_s(params)
        if (wait_s + least_s) * 1000 <= params.timeout_ms:
            return
        reasons = [f"its turn would come in about {wait_s * 1000:.0f} ms"] if wait_s else []
        if wait_s * 1000 <= params.timeout_ms:
            reasons.append(f"{least_tokens(params)} tokens take at least {least_s * 1000:.0f} ms")
        raise DeadlineExceededError(
            f"{TIMEOUT_MS.name} of {params.timeout_ms} cannot be met: {', and '.join(reasons)}"
        )

    def _start(self, entry: _Entry) -> None:
        self.engine.submit(entry.request)
        entry.scheduled_s = time.monotonic()
        self._running[entry.request.request_id] = entry
        self._used += entry.weight
        self._sink.scheduled(entry.request.request_id)
        if entry.request.params.timeout_ms is not None:
            self._changed.notify()

    def _start_next(self) -> None:
        while self._line and not self._closed and self._used + self._line[0].weight <= self._capacity:
            entry = self._line.pop(0)
            request_id = entry.request.request_id
            del self._waiting[request_id]
            try:
                self._start(entry)
            except ConchError as error:
                self._sink.failed(request_id, error)

    def _end(self, request_id: int, finished: bool = False) -> _Entry | None:
        """A running request is over."""
        entry = self._running.pop(request_id, None)
        if entry is not None:
            self._used -= entry.weight
        if entry is not None and finished:
            took_s = time.monotonic() - entry.scheduled_s
            self._mean_s = took_s if self._mean_s == 0 else self._mean_s + _SMOOTHING * (took_s - self._mean_s)
        return entry

    def _drop_waiting(self, request_id: int) -> bool:
        entry = self._waiting.pop(request_id, None)
        if entry is None:
            return False
        if entry.held:
            self._held.remove(request_id)
        else:
            del self._line[bisect_left(self._line, entry)]
        return True

    # --- times -------------------------------------------------------------------------------------------------------

    def _limit_s(self, entry: _Entry) -> float:
        """Until when an entry may stay as it is."""
        timeout_ms = entry.request.params.timeout_ms
        limit_s = math.inf if timeout_ms is None else entry.arrived_s + timeout_ms / 1000
        if self._queue_timeout_s and entry.scheduled_s == 0:
            limit_s = min(limit_s, entry.arrived_s + self._queue_timeout_s)
        return limit_s

    def _watch_times(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                entries = [*self._waiting.values(), *self._running.values()]
                limits = [(self._limit_s(e), e) for e in entries]
                late = [e for limit_s, e in limits if limit_s <= now]
                if not late:
                    nearest_s = min((limit_s for limit_s, _ in limits), default=math.inf)
                    self._changed.wait(None if nearest_s == math.inf else nearest_s - now)
                    continue
            for entry in late:
                self._too_late(entry)

    def _too_late(self, entry: _Entry) -> None:
        request, timeout_ms = entry.request, entry.request.params.timeout_ms
        if timeout_ms is not None and time.monotonic() >= entry.arrived_s + timeout_ms / 1000:
            error: ConchError = DeadlineExceededError(f"{TIMEOUT_MS.name} of {timeout_ms} has passed")
        else:
            error = UnavailableError(f"no place within the queue timeout of {self._queue_timeout_s * 1000:.0f} ms")
        with self._lock:
            if not self._drop_waiting(request.request_id):
                if self._end(request.request_id) is None:
                    return
                self.engine.cancel(request.request_id)
            self._start_next()
        self._sink.failed(request.request_id, error)
