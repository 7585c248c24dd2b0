"""How the generator itself is doing: one sample a second, from inside the event loop that takes the stamps."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from conch_load.records import GeneratorSample

# A request sent later than this after it was due was held up by the generator, not by the server.
LATE_START_NS = 10_000_000
_TICK_S = 0.01


class Probe:
    """Asks the event loop a hundred times a second to come back in 10 ms, and notes how late it was at worst.

    Every stamp is taken when the loop gets to it, so a stamp can be as late as that. The processor time is that of the
    loop's thread: a share near 1 means that it cannot follow.

    Args:
        worker: index of this worker.
        in_flight: says how many requests are under way.
        take: gets each sample.
    """

    def __init__(self, worker: int, in_flight: Callable[[], int], take: Callable[[GeneratorSample], None]) -> None:
        self._worker, self._in_flight, self._take = worker, in_flight, take
        self.late_starts = 0

    def run(self, start_ns: int) -> None:
        """Until killed; times are from ``start_ns``."""
        while True:
            began, cpu, worst = time.monotonic_ns(), time.thread_time(), 0.0
            while time.monotonic_ns() - began < 1_000_000_000:
                before = time.monotonic_ns()
                gevent.sleep(_TICK_S)
                worst = max(worst, (time.monotonic_ns() - before) / 1e6 - _TICK_S * 1e3)
            now = time.monotonic_ns()
            share = (time.thread_time() - cpu) * 1e9 / (now - began)
            late, self.late_starts = self.late_starts, 0
            self._take(GeneratorSample(
                now - start_ns, self._worker, round(worst, 3), round(min(1.0, share), 4), self._in_flight(), late,
            ))  # fmt: skip
