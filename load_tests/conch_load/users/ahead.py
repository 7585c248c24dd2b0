"""Requests that are made before it is their turn, most of them before the clock runs: to make one holds up the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent

from conch_load.workloads import Ask, Workload

AHEAD = 2048  # so many, at most, of all workers
_CLOSED_S, _OPEN_S = 3.0, 60.0  # the first are made in this time, at most: before the clock runs
_FULL_S = 0.02


class Ahead:
    """One worker's requests. Of W workers, worker w has the chains, or the arrivals, w, w + W, w + 2W, ...

    Args:
        workload: makes them.
        arrivals: of an open loop: how many there are; each is a chain of one request. 0: a closed loop.
        worker, workers: which this is, of how many.
        most: how many are made and kept, of all workers.
    """

    def __init__(self, workload: Workload, arrivals: int, worker: int, workers: int, most: int = AHEAD) -> None:
        self._workload, self._arrivals, self._step = workload, arrivals, workers
        self._next = worker
        self._most = max(1, most // workers)
        self._made: dict[int, Ask] = {}
        self._coming = self._indexes(worker)

    def take_number(self) -> int:
        """The next chain, or arrival; its requests are then the caller's to take."""
        number, self._next = self._next, self._next + self._step
        return number

    def take(self, index: int) -> Ask:
        """A request of it, made now if it is not there yet."""
        return self._made.pop(index, None) or self._workload.ask(index)

    def make_first(self) -> None:
        """Before the clock runs."""
        until = time.monotonic() + (_OPEN_S if self._arrivals else _CLOSED_S)
        while len(self._made) < self._most and time.monotonic() < until and self._make():
            gevent.sleep(0)  # Locust's heartbeats must go on

    def make_rest(self) -> None:
        """While the clock runs: so far ahead and no farther, since a run may have millions. Until killed.

        In the loop, not in a thread: the loop would wait for the interpreter's lock while a thread of the usual class
        holds it and waits for a processor (docs/adr/0016-load-generator.md).
        """
        while True:
            if len(self._made) >= self._most:
                gevent.sleep(_FULL_S)
            elif self._make():
                gevent.sleep(0)
            else:
                return

    def _make(self) -> bool:
        index = next(self._coming, None)
        if index is None:
            return False
        self._made[index] = self._workload.ask(index)
        return True

    def _indexes(self, number: int) -> Iterator[int]:
        """Of requests that nobody has taken yet, in order: what was taken before it was made is made by who took it."""
        while not self._arrivals or number < self._arrivals:
            for index in (number,) if self._arrivals else self._workload.chain(number):
                if number >= self._next:
                    yield index
            number = max(number + self._step, self._next)
