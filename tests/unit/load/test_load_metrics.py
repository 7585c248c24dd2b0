"""The figures of a run against records whose answers are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from conch_load.analysis.columns import columns
from conch_load.analysis.summarize import NONE, make_summary, summarize
from conch_load.analysis.summary import Summary
from conch_load.records import RequestRecord, RunInfo
from hypothesis import given
from hypothesis import strategies as st
from simulated_runs import MS, RUN, closed_loop, open_loop, record, samples_of, write_folder

CLOSED = dataclasses.replace(RUN, arrivals={"kind": "closed", "users": 1}, slo_ms={})


def summary_of(records: list[RequestRecord], run: RunInfo = RUN) -> Summary:
    return make_summary(run, columns(records), [], NONE)


def value(summary: Summary, metric: str, which: float) -> float:
    figure = summary.percentile(metric, which)
    assert figure is not None
    assert figure.value is not None
    return figure.value


def test_one_request_by_hand() -> None:
    # Due at 1,000 ms, sent at 1,040; chunks at 1,140, 1,170, 1,230 with 1, 2 and 4 tokens; the end at 1,300.
    one = RequestRecord(
        index=0, front="triton-grpc", worker=0, intended_ns=1000 * MS, sent_ns=1040 * MS,
        chunk_ns=(1140 * MS, 1170 * MS, 1230 * MS), chunk_tokens=(1, 2, 4), final_ns=1300 * MS, prompt_tokens=5,
        requested_tokens=7, server_output_tokens=7,
    )  # fmt: skip
    row = columns([one])
    figures = {name: getattr(row, name)[0] for name in (
        "ttft_ms", "ttft_corrected_ms", "e2e_ms", "e2e_corrected_ms", "tpot_ms", "itl_ms", "longest_gap_ms",
        "start_delay_ms", "final_lag_ms", "output_tokens")}  # fmt: skip
    assert figures == pytest.approx({
        "ttft_ms": 100, "ttft_corrected_ms": 140, "e2e_ms": 190, "e2e_corrected_ms": 230, "tpot_ms": 90 / 6,
        "itl_ms": 90 / 6, "longest_gap_ms": 60, "start_delay_ms": 40, "final_lag_ms": 70, "output_tokens": 7,
    })  # fmt: skip
    assert row.gap_ms.tolist() == [30, 60]
    two_first = columns([dataclasses.replace(one, chunk_tokens=(2, 2, 3))])
    assert two_first.tpot_ms[0] == pytest.approx(90 / 6)
    assert two_first.itl_ms[0] == pytest.approx(90 / 5)


@pytest.mark.parametrize(("changes", "has"), [
    ({"front": "triton-http"}, {"e2e_ms"}),
    ({"chunk_ns": (200 * MS,), "chunk_tokens": (1,), "server_output_tokens": 1}, {"e2e_ms", "ttft_ms"}),
    ({"chunk_ns": (200 * MS,), "chunk_tokens": (9,), "server_output_tokens": 9}, {"e2e_ms", "ttft_ms"}),
    ({"chunk_ns": (), "chunk_tokens": (), "server_output_tokens": 0}, {"e2e_ms"}),
    ({"chunk_ns": (), "chunk_tokens": (), "final_ns": None}, set()),
])  # fmt: skip
def test_a_figure_that_a_request_does_not_give_is_missing(changes: dict[str, object], has: set[str]) -> None:
    row = columns([record(0, 100, **changes)])  # type: ignore[arg-type]
    names = ("ttft_ms", "tpot_ms", "itl_ms", "longest_gap_ms", "e2e_ms")
    assert {name for name in names if not math.isnan(getattr(row, name)[0])} == has


@given(
    ttft=st.floats(0.5, 5000), gap=st.floats(0.01, 500), tokens=st.integers(2, 40), late=st.floats(0, 3000),
    count=st.integers(1, 30),
)  # fmt: skip
def test_known_ttft_and_gap_come_back(ttft: float, gap: float, tokens: int, late: float, count: int) -> None:
    records = [record(place, place * 10 + late, ttft, gap, tokens, due_ms=place * 10.0) for place in range(count)]
    rows = columns(reversed(records))
    near = {"abs": 2e-6 * tokens}  # stamps are whole nanoseconds
    assert rows.ttft_ms == pytest.approx(np.full(count, ttft), **near)
    assert rows.ttft_corrected_ms == pytest.approx(np.full(count, ttft + late), **near)
    assert rows.tpot_ms == pytest.approx(np.full(count, gap), **near)
    assert rows.gap_ms == pytest.approx(np.full(count * (tokens - 1), gap), **near)
    assert rows.e2e_ms == pytest.approx(rows.ttft_ms + (tokens - 1) * gap, **near)
    assert np.all(np.diff(rows.start_s) >= 0)
    assert rows.chunk_amount.sum() == tokens * count


def test_rates_of_a_steady_run() -> None:
    # A request each 50 ms for a minute, 8 tokens each: 20 requests/s, 160 tokens/s out, 1,280 in.
    summary = summary_of([record(place, place * 50.0, due_ms=place * 50.0) for place in range(1200)])
    rates = {name: one.value for name, one in summary.rates.items()}
    assert rates == pytest.approx({
        "offered_per_s": 20, "completed_per_s": 20, "output_tokens_per_s": 160, "input_tokens_per_s": 1280,
        "goodput_per_s": 20, "goodput_tokens_per_s": 160,
    }, rel=0.01)  # fmt: skip
    assert summary.little.recorded_in_flight == pytest.approx(20 * 0.240, rel=0.01)
    assert summary.little.rate_times_time == pytest.approx(20 * 0.240, rel=0.01)


def test_tokens_count_where_they_arrive_not_where_the_request_began() -> None:
    # One answer of 100 tokens over 100 s, of which the window of 60 s sees 60.
    run = dataclasses.replace(CLOSED, duration_s=60)
    long = record(0, 0, 500, 1000, 100)
    summary = summary_of([long, record(1, 59_000)], run)
    assert summary.rates["output_tokens_per_s"].value == pytest.approx((60 + 8) / 60, rel=0.02)


def test_tokens_of_chunks_without_counts_are_spread_evenly() -> None:
    rows = columns([record(0, 0, tokens=4, chunk_tokens=(), server_output_tokens=10)])
    assert rows.chunk_amount.tolist() == [2.5] * 4
    assert rows.counted_by.tolist() == ["server"]


def test_goodput_counts_missing_figures_and_errors_as_bad() -> None:
    limits = {"ttft_p99_ms": 150.0, "tpot_ms": 30.0}
    run = dataclasses.replace(RUN, duration_s=10.0, slo_ms=limits)
    records = [
        record(0, 0, due_ms=0),
        record(1, 1000, ttft_ms=151, due_ms=1000),
        record(2, 2000, gap_ms=31, due_ms=2000),
        record(3, 3000, due_ms=3000, error_code="UNAVAILABLE", error="engine is restarting"),
        record(4, 4000, tokens=1, due_ms=4000),  # no TPOT
        record(5, 5100, due_ms=5000),  # within the limit from sending, late from when due
        record(6, 9000, due_ms=9000),
    ]
    summary = summary_of(records, run)
    assert summary.slo.good == 2
    assert [(one.name, one.late) for one in summary.slo.objectives] == [("ttft_p99_ms", 3), ("tpot_ms", 3)]
    assert summary.rates["goodput_per_s"].value == pytest.approx(2 / summary.window.length_s)


def test_errors_by_code_cut_streams_and_wrong_counts() -> None:
    records = [record(place, place * 100.0, due_ms=place * 100.0) for place in range(600)]
    records[10] = dataclasses.replace(records[10], error_code="cut", error="no final response")
    for place in (20, 30):
        records[place] = dataclasses.replace(records[place], error_code="503", error="overloaded", chunk_ns=())
    records[40] = dataclasses.replace(records[40], final_ns=None)
    records[50] = dataclasses.replace(records[50], server_output_tokens=9)
    records[60] = dataclasses.replace(records[60], server_prompt_tokens=70)
    counts = summary_of(records).counts
    assert {code: one.count for code, one in counts.errors.items()} == {"503": 2, "cut": 1, "unfinished": 1}
    assert counts.errors["503"].first_message == "overloaded"
    assert (counts.succeeded, counts.failed, counts.cut_streams, counts.unfinished) == (596, 4, 1, 1)
    assert (counts.output_tokens_compared, counts.output_tokens_differ) == (596, 1)
    assert (counts.prompt_tokens_compared, counts.prompt_tokens_differ) == (596, 1)


def test_failed_requests_are_not_in_percentiles_but_in_the_verdict() -> None:
    records = [record(place, place * 50.0, due_ms=place * 50.0) for place in range(1000)]
    records = [dataclasses.replace(one, error_code="503", chunk_ns=()) if one.index % 10 == 0 else one
               for one in records]  # fmt: skip
    summary = summary_of(records)
    assert value(summary, "ttft_corrected_ms", 99) == pytest.approx(100)
    (ttft, _) = summary.slo.objectives
    assert (ttft.late, ttft.outcome, ttft.observed_ms) == (100, "missed", None)


def test_stalls() -> None:
    # Of 7 gaps each, one in every tenth request is four times as long.
    records = [record(place, place * 50.0) for place in range(400)]
    for place in range(0, 400, 10):
        stamps = list(records[place].chunk_ns)
        records[place] = dataclasses.replace(records[place], chunk_ns=(*stamps[:-1], stamps[-1] + 60 * MS))
    summary = summary_of(records, CLOSED)
    assert summary.stalls is not None
    assert (summary.stalls.gaps, summary.stalls.stalls) == (2800, 40)
    assert summary.stalls.threshold_ms == pytest.approx(60)
    assert summary.stalls.requests_with_one == pytest.approx(0.1)


def test_too_few_requests_print_no_percentile(tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, duration_s=20.0)
    summary = summarize(write_folder(tmp_path, open_loop(10, 20), run))
    figure = summary.percentile("ttft_ms", 99)
    assert figure is not None
    assert (figure.value, figure.low, figure.high, figure.needs) == (None, None, None, 368)
    assert value(summary, "ttft_ms", 95) > 0
    assert any("ttft_p99_ms" in text and "too few for p99, which needs 368" in text for text in summary.warnings)


def test_littles_law_sees_lost_records(tmp_path: Path) -> None:
    records = closed_loop(users=8, duration_s=30)
    run = dataclasses.replace(CLOSED, arrivals={"kind": "closed", "users": 8}, duration_s=30.0)
    whole = make_summary(run, columns(records), samples_of(records, 30), NONE)
    assert whole.little.consistent
    assert whole.little.sampled_in_flight == pytest.approx(8, abs=0.3)
    lost = make_summary(run, columns(records[::2]), samples_of(records, 30), NONE)
    assert lost.little.consistent is False
    assert any("Little's law" in text for text in lost.warnings)


def test_a_run_in_which_nothing_succeeded_is_invalid() -> None:
    summary = summary_of([record(0, 0, due_ms=0, error_code="connection", error="refused", chunk_ns=())])
    assert summary.invalid == ["no request of the measured part succeeded"]
    assert summary.metrics.keys() == set()


def test_warm_up_requests_count_for_nothing() -> None:
    run = dataclasses.replace(CLOSED, warm_up_s=5.0, duration_s=20.0)
    records = [record(place, place * 100.0, ttft_ms=900 if place < 50 else 100, warm_up=place < 50)
               for place in range(250)]  # fmt: skip
    summary = summary_of(records, run)
    assert (summary.counts.before_window, summary.counts.measured) == (50, 200)
    assert summary.metrics["ttft_ms"].highest == pytest.approx(100)
    assert (summary.window.start_s, summary.window.end_s) == (5.0, pytest.approx(25.0, abs=0.3))


def test_seconds_since_the_start() -> None:
    assert columns([record(0, 1500, due_ms=1000)]).start_s.tolist() == [1.0]


def test_a_limit_on_what_no_request_has_is_said() -> None:
    whole = [dataclasses.replace(one, front="triton-http", chunk_ns=one.chunk_ns[-1:]) for one in open_loop(20, 30)]
    summary = summary_of(whole)
    assert "ttft_p99_ms: no request has this figure, so every one counts as late" in summary.warnings
    assert summary.slo.good == 0
