"""Tells the world what the tally counts: metrics and request log, from a thread of its own.

A metric's change is a round trip to Triton's process, so nothing is told at once. While rows are under way, gauges and
lines follow within TICK_S, counters and histograms within COUNT_EVERY_S; when the last row has ended, all of it follows
within IDLE_COUNT_EVERY_S. The thread sleeps while nothing happens.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from conch import metric_table as table
from conch.engines.base import EngineState, Tokens
from conch.engines.queue import Load
from conch.triton.answers import Row
from conch.triton.metrics import Exporter
from conch.triton.monitor import Monitor
from conch.triton.request_log import RequestLog
from conch.triton.tally import Tally

_log = logging.getLogger(__name__)
TICK_S = 0.2
COUNT_EVERY_S = 1.0
IDLE_COUNT_EVERY_S = 0.4
_CLOSE_TIMEOUT_S = 5
_NO_LOAD = Load(0, 0)


class Reporter(Monitor):
    """See the module.

    Args:
        model: name of the spec.
        version: number of the release.
        log: takes the requests that are over.
        keep_tokens: whether the log shows answers.
    """

    def __init__(self, model: str, version: int, log: RequestLog, keep_tokens: bool) -> None:
        self._model, self._version, self._log = model, version, log
        self._tally = Tally(keep_tokens)
        self._load: Callable[[], Load] = lambda: _NO_LOAD
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self, load: Callable[[], Load]) -> None:
        """Begin to report; ``load`` says how many rows wait and run."""
        self._load = load
        self._thread.start()

    def close(self) -> None:
        """Report what is there, then remove the metrics."""
        self._closed.set()
        self._news.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    # --- Monitor -----------------------------------------------------------------------------------------------------

    def arrived(self, row: Row) -> None:
        self._tally.arrived(row)
        self._news.set()

    def tokens(self, row: Row, event: Tokens, gap_ns: int) -> None:
        self._tally.tokens(row, event, gap_ns)

    def step_done(self) -> None:
        self._tally.step_done()

    def ended(self, row: Row, reason: str) -> None:
        self._tally.ended(row, reason)
        self._news.set()

    def state(self, state: EngineState) -> None:
        self._tally.state(state)
        self._news.set()

    # --- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        exporter = Exporter(self._model, self._version)
        counted_at = 0.0
        while not self._closed.is_set():
            self._news.wait()
            self._closed.wait(TICK_S)
            self._news.clear()  # before the look: what comes after it is news again
            now, last = time.monotonic(), self._closed.is_set()
            try:
                load = self._load()
                busy = self._tally.busy or load != _NO_LOAD
                due = last or now - counted_at >= (COUNT_EVERY_S if busy else IDLE_COUNT_EVERY_S)
                if due:
                    counted_at = now
                if busy or not due:
                    self._news.set()
                self._report(exporter, load, due)
            except Exception:
                _log.exception("a report of the engine was lost")
        exporter.close()

    def _report(self, exporter: Exporter, load: Load, with_counts: bool) -> None:
        self._log.write(self._tally.take_calls())
        exporter.set_gauges(
            {
                table.WAITING.name: load.waiting,
                table.RUNNING.name: load.running,
                table.KV_USAGE.name: self._tally.kv_cache_usage,
            }
        )
        if with_counts:
            exporter.add(self._tally.take_counts())
