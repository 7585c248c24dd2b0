"""Coordinated omission: a server that stands still for two seconds under arrivals that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conch_load.analysis import Summary, summarize
from conch_load.report import texts
from simulated_runs import open_loop, write_folder

STALL = (30.0, 32.0)


def p(summary: Summary, metric: str, which: float) -> float:
    figure = summary.percentile(metric, which)
    assert figure is not None
    assert figure.value is not None
    return figure.value


def test_corrected_p99_shows_the_stall_and_raw_says_how_much_it_hides(tmp_path: Path) -> None:
    # The client has sixteen connections, so that it stops to send while the server stands still.
    held = summarize(write_folder(tmp_path / "held", open_loop(20, 60, stall=STALL, client_cap=16)))
    calm = summarize(write_folder(tmp_path / "calm", open_loop(20, 60)))
    # In 60 s at 20 a second, the 40 that were due in those two seconds are 3 % of all: p99 is a stalled one.
    assert p(held, "ttft_corrected_ms", 99) > 1000
    assert p(held, "ttft_ms", 99) < 0.5 * p(held, "ttft_corrected_ms", 99)
    assert p(held, "ttft_corrected_ms", 50) == pytest.approx(p(calm, "ttft_corrected_ms", 50), rel=0.1)
    hidden = p(held, "ttft_corrected_ms", 99) - p(held, "ttft_ms", 99)
    said = [text for text in texts.omission(held) if text.startswith("p99 of TTFT")]
    assert said
    assert f"hides {texts.number(hidden)} ms" in said[0]
    assert held.metrics["start_delay_ms"].highest > 1000
    assert held.slo.objectives[0].outcome == "missed"
    assert calm.slo.objectives[0].outcome == "holds"


def test_one_stall_is_one_event_and_the_interval_says_so(tmp_path: Path) -> None:
    summary = summarize(write_folder(tmp_path, open_loop(20, 60, stall=STALL)))
    figure = summary.percentile("ttft_corrected_ms", 99)
    assert figure is not None
    assert figure.design_effect is not None
    assert figure.design_effect > 5
    assert figure.high is None  # forty late requests that came together do not bound p99 from above
    assert figure.independent_high is not None
    assert summary.slo.objectives[0].outcome_if_dependent == "undecided"


def test_a_client_that_never_waits_hides_nothing(tmp_path: Path) -> None:
    summary = summarize(write_folder(tmp_path, open_loop(20, 60, stall=STALL)))
    assert p(summary, "ttft_corrected_ms", 99) == p(summary, "ttft_ms", 99)
    assert any("hides nothing" in text and "left on time" in text for text in texts.omission(summary))


def test_a_stall_is_seen_wherever_it_is(tmp_path: Path) -> None:
    for begin in (6.0, 20.0, 50.0):
        summary = summarize(write_folder(tmp_path / str(begin), open_loop(20, 60, stall=(begin, begin + 2))))
        assert p(summary, "ttft_corrected_ms", 99) > 800, begin
