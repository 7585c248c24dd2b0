"""What the tally makes of events that the engine without a model never has."""

from __future__ import annotations

from typing import Any

import pytest

from conch import metric_table as table
from conch.engines.base import Tokens
from conch.errors import CancelledError, Code, UnavailableError
from conch.triton.answers import Answer, Call, Row
from conch.triton.tally import Counts, Tally

MS = 1_000_000


def rows_of_a_call(rows: int = 1, answers: int = 1) -> list[Row]:
    """Rows that arrived at 0 and got their first token after 10 ms."""
    made = [
        Row(number, None, 7, [Answer(None, None) for _ in range(answers)])  # type: ignore[arg-type]
        for number in range(1, rows + 1)
    ]
    Call(None, made)  # type: ignore[arg-type]
    for row in made:
        row.scheduled_ns, row.first_token_ns = 4 * MS, 10 * MS
    return made


def grown(counts: Counts, spec: table.MetricSpec, value: str = "") -> float:
    return counts.counters.get((spec.name, value), 0)


def values(counts: Counts, spec: table.MetricSpec) -> list[float]:
    return [value for name, value in counts.observations if name == spec.name]


def gaps(counts: Counts) -> tuple[int, Any]:
    histogram = counts.histograms[table.INTER_TOKEN.name]
    return sum(histogram.counts), pytest.approx(histogram.total)


def test_tokens_that_come_together_share_the_time_since_those_before() -> None:
    tally, (row,) = Tally(), rows_of_a_call()
    tally.arrived(row)
    tally.tokens(row, Tokens(1, [5, 6], None), 0)
    tally.tokens(row, Tokens(1, [5, 6, 7], None), 30 * MS)
    tally.tokens(row, Tokens(1, [5], None), 5 * MS)
    counts = tally.take_counts()
    assert gaps(counts) == (4, 0.035)
    assert grown(counts, table.OUTPUT_TOKENS) == 6
    assert grown(counts, table.PROMPT_TOKENS) == 7
    assert values(counts, table.TTFT) == [0.01]


def test_several_answers_to_a_prompt_come_whole_so_there_are_no_gaps() -> None:
    tally, (row,) = Tally(), rows_of_a_call(answers=2)
    tally.arrived(row)
    tally.tokens(row, Tokens(1, [5, 6, 7], "length"), 0)
    tally.tokens(row, Tokens(1, [5, 6, 8], "length", sequence=1), 1)
    tally.ended(row, "length")
    counts = tally.take_counts()
    assert gaps(counts) == (0, 0)
    assert values(counts, table.REQUEST_OUTPUT) == [6]
    assert values(counts, table.REQUEST_PROMPT) == [7]


def test_what_comes_after_the_end_is_not_counted() -> None:
    tally, (first, second) = Tally(), rows_of_a_call(rows=2)
    for row in (first, second):
        tally.arrived(row)
    tally.tokens(first, Tokens(1, [5], None), 0)
    tally.ended(first, "stop")
    tally.tokens(first, Tokens(1, [6], None), MS)  # the engine had not heard of the end
    tally.ended(first, "cancelled")
    assert tally.busy
    assert tally.take_calls() == []  # its other row is under way
    tally.ended(second, "length")
    tally.tokens(second, Tokens(2, [6], None), 0)
    counts = tally.take_counts()
    assert grown(counts, table.OUTPUT_TOKENS) == values(counts, table.REQUEST_OUTPUT)[0] == 1
    assert [grown(counts, table.REQUESTS, reason) for reason in table.REQUESTS.values] == [1, 1, 0, 0]
    (call,) = tally.take_calls()
    assert [record.ended for record in call.rows] == ["stop", "length"]
    assert not tally.busy
    assert (tally.take_calls(), tally.take_counts().counters) == ([], {})


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([UnavailableError("away")], Code.UNAVAILABLE),
        ([CancelledError("gone"), UnavailableError("away")], Code.UNAVAILABLE),
        ([], Code.INTERNAL),  # an answer that could not be sent
    ],
)
def test_the_code_of_a_failure(errors: list[Any], code: Code) -> None:
    tally, rows = Tally(), rows_of_a_call(rows=2)
    for row, error in zip(rows, errors, strict=False):
        row.answers[0].error = error
    for row in rows:
        tally.arrived(row)
        tally.ended(row, table.FAILED)
    counts = tally.take_counts()
    assert grown(counts, table.ERRORS, code.value) == grown(counts, table.REQUESTS, table.FAILED) == 2
    assert counts.observations == []  # there was no first token
    assert tally.take_calls()[0].code is code


def test_a_clock_that_is_set_back_gives_no_time_below_0() -> None:
    tally, (row,) = Tally(), rows_of_a_call()
    tally.arrived(row)
    row.arrival_ns = row.first_token_ns + 5 * MS
    tally.tokens(row, Tokens(1, [5], None), 0)
    tally.tokens(row, Tokens(1, [5], None), -3 * MS)
    tally.ended(row, "stop")
    counts = tally.take_counts()
    assert gaps(counts) == (1, 0)
    assert all(value >= 0 for _, value in counts.observations)


def test_a_step_is_counted_with_the_rows_that_got_tokens_in_it() -> None:
    tally, rows = Tally(), rows_of_a_call(rows=3)
    for row in rows:
        tally.arrived(row)
    for batch in (rows, rows[:1], []):
        for row in batch:
            tally.tokens(row, Tokens(row.request_id, [5, 6], None), 0)
        tally.step_done()
    histogram = tally.take_counts().histograms[table.BATCH_SIZE.name]
    assert (sum(histogram.counts), histogram.total) == (2, 4)
