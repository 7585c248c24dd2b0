"""Intervals: against exact values, and by how often they hold the truth."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from conch_load.analysis.early_stopping import early_stopping, minimum_queries
from conch_load.analysis.intervals import (
    Floats,
    batch_error,
    binomial_cdf,
    needed,
    order_ranks,
    percentile,
    rate,
    student_quantile,
    wilson,
)
from hypothesis import given
from hypothesis import strategies as st


def exact_cdf(count: int, trials: int, share: float) -> float:
    return sum(math.comb(trials, one) * share**one * (1 - share) ** (trials - one) for one in range(count + 1))


@given(trials=st.integers(1, 300), share=st.floats(0.001, 0.999), part=st.floats(0, 1))
def test_binomial(trials: int, share: float, part: float) -> None:
    count = int(part * trials)
    assert binomial_cdf(count, trials, share) == pytest.approx(exact_cdf(count, trials, share), rel=1e-9, abs=1e-12)


def test_how_many_values_a_percentile_needs() -> None:
    assert [needed(which) for which in (50, 90, 95, 99, 99.9)] == [6, 36, 72, 368, 3688]


def test_ranks_of_a_textbook() -> None:
    # 25 values, the median: the 8th and the 18th (Conover, Practical Nonparametric Statistics, section 3.2).
    assert order_ranks(25, 50) == (8, 18)
    assert order_ranks(367, 99)[1] is None
    assert order_ranks(368, 99)[1] == 368


@given(trials=st.integers(368, 5000))
def test_ranks_cover_at_least_what_they_say(trials: int) -> None:
    low, high = order_ranks(trials, 99)
    assert low is not None
    assert high is not None
    assert binomial_cdf(high - 1, trials, 0.99) - binomial_cdf(low - 1, trials, 0.99) >= 0.95


def test_student() -> None:
    table = {1: 12.7062, 2: 4.3027, 5: 2.5706, 10: 2.2281, 19: 2.0930, 39: 2.0227, 120: 1.9799}
    assert {n: student_quantile(0.975, n) for n in table} == pytest.approx(table, abs=1e-4)
    assert student_quantile(0.995, 3) == pytest.approx(5.8409, abs=1e-4)


def test_wilson_of_a_textbook() -> None:
    # Newcombe 1998, table I: 81 of 263.
    one = wilson(81, 263)
    assert (one.value, one.low, one.high) == pytest.approx((0.3080, 0.2553, 0.3662), abs=1e-4)


def test_percentiles_are_measured_values() -> None:
    values = np.arange(1.0, 1001.0)[::-1].copy()
    assert [percentile(values, which).value for which in (50, 95, 99)] == [500, 950, 990]


def autoregressive(rng: np.random.Generator, count: int, phi: float) -> Floats:
    """A Gaussian series of unit variance whose neighbours are correlated by phi."""
    noise = rng.normal(size=count) * math.sqrt(1 - phi**2)
    values = np.empty(count)
    values[0] = rng.normal()
    for place in range(1, count):
        values[place] = phi * values[place - 1] + noise[place]
    return values


@pytest.mark.parametrize(("phi", "which", "least"), [
    (0.0, 50, 0.92), (0.0, 95, 0.92), (0.0, 99, 0.92), (0.8, 50, 0.87), (0.8, 95, 0.85), (0.8, 99, 0.83),
])  # fmt: skip
def test_percentile_intervals_hold_the_truth(phi: float, which: float, least: float) -> None:
    rng = np.random.default_rng(1)
    truth = NormalDist().inv_cdf(which / 100)
    runs, held, independent = 200, 0, 0
    for _ in range(runs):
        one = percentile(autoregressive(rng, 1500, phi), which)
        low, high = (-math.inf if one.low is None else one.low), (math.inf if one.high is None else one.high)
        held += low <= truth <= high
        inner = one.independent
        independent += inner[0] is not None and inner[1] is not None and inner[0] <= truth <= inner[1]
    assert held / runs >= least
    if phi:
        assert independent / runs < 0.8  # what taking dependent requests for independent ones would have claimed


@pytest.mark.parametrize(("phi", "least"), [(-0.7, 0.93), (0.0, 0.92), (0.5, 0.87)])
def test_rate_intervals_hold_the_truth(phi: float, least: float) -> None:
    rng = np.random.default_rng(2)
    found = [rate(autoregressive(rng, 40, phi) + 50, 0.5) for _ in range(500)]
    held = [one.low is not None and one.high is not None and one.low <= 100 <= one.high for one in found]
    assert np.mean(held) >= least


def test_batch_error_of_gaps_counts_requests_not_gaps() -> None:
    # All ten gaps of a request are equal: 500 values, but 50 independent ones.
    rng = np.random.default_rng(3)
    of_request = rng.normal(size=2000)
    owners = np.repeat(np.arange(2000), 10)
    error = batch_error(np.repeat(of_request, 10), owners)
    assert error == pytest.approx(1 / math.sqrt(2000), rel=0.4)
    assert error > 2 * 1 / math.sqrt(20000)


def test_many_gaps_of_few_requests_have_no_interval() -> None:
    values = np.random.default_rng(3).normal(size=3000)
    one = percentile(values, 99, np.repeat(np.arange(30), 100))
    assert one.value is not None
    assert (one.low, one.high, one.independent) == (None, None, (None, None))
    assert percentile(values, 99).low is not None


def test_mlperfs_minimum_queries() -> None:
    assert [minimum_queries(late, 99) for late in range(6)] == [459, 662, 838, 1001, 1157, 1307]
    assert [minimum_queries(late, 99, 0.95) for late in range(3)] == [299, 473, 628]


@pytest.mark.parametrize(("queries", "late", "outcome"), [
    (458, 0, "undecided"), (459, 0, "holds"), (661, 1, "undecided"), (662, 1, "holds"), (1000, 10, "undecided"),
    (1000, 30, "missed"), (5, 3, "missed"), (1, 1, "missed"), (1, 0, "undecided"), (0, 0, "undecided"),
])  # fmt: skip
def test_early_stopping(queries: int, late: int, outcome: str) -> None:
    assert early_stopping(queries, late, 99).outcome == outcome


def test_early_stopping_is_seldom_wrong() -> None:
    # True share of late requests just at the limit: "holds" may come in 1 % of runs, "missed" likewise.
    rng = np.random.default_rng(4)
    outcomes = [early_stopping(2000, int(rng.binomial(2000, 0.01)), 99).outcome for _ in range(3000)]
    assert outcomes.count("holds") / 3000 <= 0.016
    assert outcomes.count("missed") / 3000 <= 0.016
    clear = [early_stopping(2000, int(rng.binomial(2000, 0.002)), 99).outcome for _ in range(300)]
    assert clear.count("holds") / 300 > 0.95
