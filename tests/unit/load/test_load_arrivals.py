"""When requests of an open loop are due."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pytest
from conch_load.arrivals import schedule
from conch_load.config import RunConfig, checked

SECOND = 10**9


def config(seconds: float = 100, warm_up_s: float = 0, seed: int = 1, **arrivals: Any) -> RunConfig:
    return checked({"arrivals": arrivals, "duration_s": seconds, "warm_up_s": warm_up_s, "seed": seed})


def gaps(times: list[int]) -> list[float]:
    return [(b - a) / SECOND for a, b in itertools.pairwise(times)]


def test_constant_arrivals_are_even_and_fill_the_run_with_its_warm_up() -> None:
    times = schedule(config(10, warm_up_s=5, kind="constant", rate_per_s=4), None)
    assert times == [SECOND * (i + 1) // 4 for i in range(59)]


@pytest.mark.parametrize(
    ("kind", "burstiness", "variation"), [("poisson", 4, 1.0), ("gamma", 4, 2.0), ("gamma", 0.25, 0.5)]
)
def test_random_gaps_have_the_mean_and_the_variation_that_were_asked_for(
    kind: str, burstiness: float, variation: float
) -> None:
    times = schedule(config(4000, kind=kind, rate_per_s=5, burstiness=burstiness), None)
    mean = statistics.fmean(gaps(times))
    assert mean == pytest.approx(0.2, rel=0.05)
    assert statistics.pstdev(gaps(times)) / mean == pytest.approx(variation, rel=0.06)


def test_the_seed_makes_the_schedule() -> None:
    one, again, other = (schedule(config(seed=seed, kind="poisson", rate_per_s=3), None) for seed in (1, 1, 2))
    assert one == again != other


def test_steps_have_their_rates_in_their_times_and_the_last_one_goes_on() -> None:
    times = schedule(config(400, warm_up_s=100, kind="steps", steps=[(2, 100), (0, 50), (10, 100)]), None)
    counts = [sum(a * SECOND <= t < b * SECOND for t in times) for a, b in ((0, 200), (200, 250), (250, 500))]
    assert counts[1] == 0
    assert counts[0] == pytest.approx(400, rel=0.15)
    assert counts[2] == pytest.approx(2500, rel=0.06)


def test_a_trace_keeps_its_times_or_runs_faster() -> None:
    workload = {"kind": "mooncake", "path": "x.jsonl"}
    trace = [0, SECOND, 5 * SECOND, 30 * SECOND]
    for speed, expected in ((1, [0, SECOND, 5 * SECOND]), (2, [0, SECOND // 2, 5 * SECOND // 2])):
        made = checked({"arrivals": {"kind": "trace", "speed": speed}, "workload": workload, "duration_s": 10,
                        "warm_up_s": 0})  # fmt: skip
        assert schedule(made, trace) == expected


def test_a_closed_loop_has_no_schedule() -> None:
    assert schedule(config(kind="closed", users=3), None) == []
