"""Adds up what happens to requests, in plain numbers: what metrics and the request log are made of.

It is told of every token, so it costs about a microsecond a token and waits for nobody.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from conch import metric_table as table
from conch.engines.base import EngineState, Tokens
from conch.errors import Code
from conch.metric_table import FAILED, MetricSpec
from conch.triton.answers import Call, Row

# Most tokens of a prompt, and of an answer, that are kept for the log.
KEPT_TOKENS = 1000


@dataclass
class Histogram:
    """Values that come too often to be kept.

    Attributes:
        bounds: upper bounds of the buckets; one more bucket takes what is larger.
        counts: values in each bucket alone, since the beginning.
        total: their sum.
    """

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value; a negative one, of a clock that was set back, is 0."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(self.bounds, list(self.counts), self.total)


@dataclass(eq=False)
class RowRecord:
    """What was counted of a row.

    Attributes:
        row: whose.
        output_tokens: of all its answers.
        answers: of each answer the first token ids, if they are kept.
        ended: reason; empty: not yet.
    """

    row: Row
    output_tokens: int = 0
    answers: list[list[int]] = field(default_factory=list)
    ended: str = ""


@dataclass(frozen=True)
class CallRecord:
    """A request that is over.

    Attributes:
        call: which.
        rows: in its order.
        code: of the error that ended it; None where none did.
        ended_ns: since 1970.
    """

    call: Call
    rows: list[RowRecord]
    code: Code | None
    ended_ns: int


@dataclass
class Counts:
    """What was counted.

    Attributes:
        counters: (name of the metric, value of its label) -> by how much it grew since the last look.
        observations: name of a histogram and a value, since the last look.
        histograms: name of a frequent histogram -> all since the beginning.
    """

    counters: dict[tuple[str, str], float]
    observations: list[tuple[str, float]]
    histograms: dict[str, Histogram]


class Tally:
    """See the module. Any thread may call it.

    Args:
        keep_tokens: whether records of calls hold the answers' token ids.
    """

    def __init__(self, keep_tokens: bool = False) -> None:
        self._keep_tokens = keep_tokens
        self._lock = threading.Lock()
        self._open: dict[int, RowRecord] = {}
        self._ended_calls: list[CallRecord] = []
        self._counters: dict[tuple[str, str], float] = {}
        self._observations: list[tuple[str, float]] = []
        self._gaps, self._batch_size = Histogram(table.INTER_TOKEN.bounds), Histogram(table.BATCH_SIZE.bounds)
        self._generated = self._in_step = 0
        self._state = EngineState()

    def arrived(self, row: Row) -> None:
        """A row was taken in."""
        with self._lock:
            self._open[row.request_id] = RowRecord(row, answers=[[] for _ in row.answers] if self._keep_tokens else [])

    def tokens(self, row: Row, event: Tokens, gap_ns: int) -> None:
        """Tokens of a row; those of a row that is over are not counted."""
        count = len(event.ids)
        with self._lock:
            record = self._open.get(row.request_id)
            if record is None or record.ended:
                return
            self._in_step += 1
            self._generated += count
            first = record.output_tokens == 0
            record.output_tokens += count
            if first:
                self._observe(table.TTFT, (row.first_token_ns - row.arrival_ns) / 1e9)
                self._count(table.PROMPT_TOKENS, row.input_tokens)
            elif len(row.answers) == 1:  # several come whole, one after the other: there is no time between tokens
                self._gaps.observe(gap_ns / 1e9 / count, count)
            if self._keep_tokens:
                kept = record.answers[event.sequence]
                kept += event.ids[: KEPT_TOKENS - len(kept)]

    def step_done(self) -> None:
        """A step of the engine is over."""
        with self._lock:
            if self._in_step:
                self._batch_size.observe(self._in_step)
                self._in_step = 0

    def ended(self, row: Row, reason: str) -> None:
        """A row is over: one of conch.contract.FINISH_REASONS, or FAILED."""
        now = time.time_ns()
        call = row.call
        assert call is not None
        with self._lock:
            record = self._open.get(row.request_id)
            if record is None or record.ended:
                return
            record.ended = reason
            self._count(table.REQUESTS, 1, reason)
            if reason == FAILED:
                self._count(table.ERRORS, 1, _code(call).value)
            if record.output_tokens:
                self._observe_end(record, now)
            records = [self._open[r.request_id] for r in call.rows if r.request_id in self._open]
            if all(r.ended for r in records):
                for r in records:
                    del self._open[r.row.request_id]
                code = _code(call) if any(r.ended == FAILED for r in records) else None
                self._ended_calls.append(CallRecord(call, records, code, now))

    def state(self, state: EngineState) -> None:
        """News of the engine."""
        with self._lock:
            last, self._state = self._state, state
            for spec, now, before in (
                (table.PREFIX_QUERIES, state.prefix_query_tokens, last.prefix_query_tokens),
                (table.PREFIX_HITS, state.prefix_hit_tokens, last.prefix_hit_tokens),
            ):
                self._count(spec, max(now - before, 0))

    @property
    def busy(self) -> bool:
        """Whether a row is under way."""
        return bool(self._open)

    @property
    def kv_cache_usage(self) -> float:
        """As the engine said last."""
        return self._state.kv_cache_usage

    def take_counts(self) -> Counts:
        """What was counted since the last call."""
        with self._lock:
            self._count(table.OUTPUT_TOKENS, self._generated)
            self._generated = 0
            counters, self._counters = self._counters, {}
            observations, self._observations = self._observations, []
            histograms = ((table.INTER_TOKEN.name, self._gaps), (table.BATCH_SIZE.name, self._batch_size))
            return Counts(counters, observations, {name: histogram.copy() for name, histogram in histograms})

    def take_calls(self) -> list[CallRecord]:
        """Requests that ended since the last call."""
        with self._lock:
            calls, self._ended_calls = self._ended_calls, []
        return calls

    def _count(self, spec: MetricSpec, by: float, value: str = "") -> None:
        if by:
            key = (spec.name, value)
            self._counters[key] = self._counters.get(key, 0) + by

    def _observe(self, spec: MetricSpec, value: float) -> None:
        self._observations.append((spec.name, max(value, 0.0)))  # less than 0: a clock was set back

    def _observe_end(self, record: RowRecord, now: int) -> None:
        row = record.row
        for spec, value in (
            (table.QUEUE_TIME, (row.scheduled_ns - row.arrival_ns) / 1e9),
            (table.PREFILL_TIME, (row.first_token_ns - row.scheduled_ns) / 1e9),
            (table.DECODE_TIME, (row.last_token_ns - row.first_token_ns) / 1e9),
            (table.E2E_TIME, (now - row.arrival_ns) / 1e9),
            (table.REQUEST_PROMPT, row.input_tokens),
            (table.REQUEST_OUTPUT, record.output_tokens),
        ):
            self._observe(spec, value)


def _code(call: Call) -> Code:
    """Of the error that ended a call."""
    codes = (answer.error.code for row in call.rows for answer in row.answers if answer.error is not None)
    return next((code for code in codes if code is not Code.CANCELLED), Code.INTERNAL)
