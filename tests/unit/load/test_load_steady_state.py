"""Where the warm-up ends, what is never cut, and what does not stand still."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conch_load.analysis.steady_state import mser5, ranks, trend
from conch_load.analysis.summarize import NONE, summarize
from simulated_runs import RUN, open_loop, write_folder


def test_ranks_share_ties() -> None:
    assert ranks(np.array([30.0, 10.0, 30.0, 20.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


@pytest.mark.parametrize("slow", [20, 60, 150])
def test_a_slow_beginning_is_cut(slow: int) -> None:
    rng = np.random.default_rng(5)
    values = rng.lognormal(0, 0.3, 1000)
    values[:slow] *= np.linspace(8, 3, slow)
    cut = mser5(values).count
    assert slow - 10 <= cut <= 2 * slow + 10


def test_what_has_no_beginning_is_seldom_cut() -> None:
    rng = np.random.default_rng(6)
    cuts = [mser5(rng.lognormal(0, 0.5, 600)).count for _ in range(200)]
    assert np.mean([cut > 0 for cut in cuts]) < 0.25
    assert np.mean(cuts) < 0.05 * 600


@pytest.mark.parametrize("begin", [150, 300, 480, 700])
def test_a_stall_in_the_middle_is_never_cut_away(begin: int) -> None:
    rng = np.random.default_rng(7)
    values = rng.lognormal(0, 0.3, 1200)
    values[begin : begin + 40] += 20
    assert mser5(values).count < begin


def test_a_run_without_a_steady_state_is_not_cut_and_says_so() -> None:
    found = mser5(np.arange(500.0))
    assert (found.count, found.reached_half) == (0, True)


@pytest.mark.parametrize("count", [0, 1, 7, 19])
def test_short_series(count: int) -> None:
    assert mser5(np.ones(count)).count == 0
    assert trend(np.ones(count)).p_value is None


def test_trend() -> None:
    rng = np.random.default_rng(8)
    noise = rng.normal(1, 0.2, 800)
    rising, falling = trend(noise + np.linspace(0, 1, 800)), trend(noise + np.linspace(1, 0, 800))
    assert rising.drifts
    assert falling.drifts
    assert rising.change is not None
    assert falling.change is not None
    assert rising.change > 0.3
    assert falling.change < -0.2
    wrong = sum(trend(rng.normal(1, 0.2, 800)).drifts for _ in range(300))
    assert wrong <= 6


def test_a_server_over_its_capacity_is_said_not_to_stand_still(tmp_path: Path) -> None:
    # Eight slots of 200 ms carry 40 a second; 50 are asked for.
    summary = summarize(write_folder(tmp_path, open_loop(50, 60), RUN))
    assert summary.stationarity["ttft_ms"].drifts
    assert any("does not stand still" in text for text in summary.warnings)
    assert any("did not keep up" in text for text in summary.warnings)


def test_arrivals_that_change_by_design_are_not_judged(tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, arrivals={"kind": "steps", "steps": [[5, 30], [50, 30]]})
    summary = summarize(write_folder(tmp_path, open_loop(50, 60), run))
    assert summary.stationarity == {}
    assert summary.window.cut_requests == 0
    assert "by design" in summary.window.rule


def test_what_is_cut_is_told(tmp_path: Path) -> None:
    records = open_loop(20, 60)
    slow = [dataclasses.replace(one, chunk_ns=tuple(at + 900_000_000 for at in one.chunk_ns),
                                final_ns=(one.final_ns or 0) + 900_000_000) for one in records[:50]]  # fmt: skip
    folder = write_folder(tmp_path, [*slow, *records[50:]])
    window = summarize(folder).window
    assert 40 <= window.cut_requests <= 100
    assert window.cut_highest_ttft_ms is not None
    assert window.cut_highest_ttft_ms > 900
    assert summarize(folder, NONE).window.cut_requests == 0
    assert summarize(folder, 10).window.start_s == 10
