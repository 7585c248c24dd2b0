"""Percentiles and how far they can be trusted.

Two intervals for each percentile. The order-statistic interval is exact for independent values of any distribution
(David and Nagaraja, Order Statistics, 3rd ed., section 7.1). Requests to one server are not independent: a stall hits
all that are in flight. So the second one takes the variance of the share of values below the percentile from batch
means, and turns it into an interval of the percentile (Woodruff, JASA 47, 1952).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL = 0.95
BATCHES = 20
RATE_SLICES = 40
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; an end that the data do not bound is None."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Percentile:
    """A percentile of measured values.

    Attributes:
        value: None when there are fewer than ``needs`` values.
        low, high: the wider of the two intervals at each end; None where the data do not bound it.
        independent: the order-statistic interval alone, (low, high).
        design_effect: how many values weigh as one because neighbours resemble each other; None when not known.
        needs: how many values the percentile needs.
    """

    value: float | None
    low: float | None
    high: float | None
    independent: tuple[float | None, float | None]
    design_effect: float | None
    needs: int


def needed(percentile: float, level: float = LEVEL) -> int:
    """How many independent values an interval of a percentile needs to have both its ends among them."""
    tail = (1 - level) / 2
    share = percentile / 100
    return max(math.ceil(math.log(tail) / math.log(share)), math.ceil(math.log(tail) / math.log(1 - share)))


def binomial_cdf(count: int, trials: int, share: float) -> float:
    """P(X <= count) for X binomial(trials, share), summed in logs around the mean."""
    if count < 0:
        return 0.0
    if count >= trials:
        return 1.0
    mean, deviation = trials * share, math.sqrt(trials * share * (1 - share))
    low = max(0, math.floor(mean - 12 * deviation - 40))
    if count < low:
        return 0.0
    successes = np.arange(low, min(count, math.ceil(mean + 12 * deviation + 40)) + 1)
    logs = _log_choose(trials, successes) + successes * math.log(share) + (trials - successes) * math.log1p(-share)
    return min(1.0, float(np.exp(logs).sum()))


def _log_choose(trials: int, successes: Integers) -> Floats:
    whole = math.lgamma(trials + 1)
    return np.array([whole - math.lgamma(one + 1) - math.lgamma(trials - one + 1) for one in successes.tolist()])


@lru_cache(maxsize=4096)
def order_ranks(trials: int, percentile: float, level: float = LEVEL) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the two values between which the percentile lies with at least ``level``; None for no such."""
    share, tail = percentile / 100, (1 - level) / 2
    low = _last_rank(trials, share, tail)
    high = _last_rank(trials, 1 - share, tail)
    return low, None if high is None else trials + 1 - high


def _last_rank(trials: int, share: float, tail: float) -> int | None:
    """The largest rank r with P(X <= r - 1) <= tail; bisection, as the sum grows with r."""
    low, high = 0, trials + 1  # low holds, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle - 1, trials, share) <= tail:
            low = middle
        else:
            high = middle
    return low or None


@lru_cache(maxsize=256)
def student_quantile(probability: float, degrees: float) -> float:
    """Student's t, by bisection.

    Args:
        probability: 0.5 to 1, the 1 excluded.
        degrees: of freedom, above 0; need not be whole.
    """
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def student_cdf(value: float, degrees: float) -> float:
    """P(T <= value) for a value of 0 or more, by the incomplete beta function (Abramowitz and Stegun 26.7.1)."""
    return 1 - _incomplete_beta(degrees / (degrees + value * value), degrees / 2, 0.5) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularized one, by its continued fraction (Numerical Recipes, section 6.4: Lentz's method)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    fraction, upper, lower = 1.0, 1.0, 0.0
    for step in range(400):
        half, odd = divmod(step, 2)
        if step == 0:
            term = 1.0
        elif odd:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        lower = 1 / _not_zero(1 + term * lower)
        upper = _not_zero(1 + term / upper)
        fraction *= upper * lower
        if abs(1 - upper * lower) < 1e-14:
            break
    return front * (fraction - 1)


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def nearest_rank(ordered: Floats, share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed; ``ordered`` is sorted and not empty."""
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.95 * 20 is 19.000000000000004 or so
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])


def percentile(values: Floats, which: float, owners: Integers | None = None, ordered: Floats | None = None,
               level: float = LEVEL) -> Percentile:  # fmt: skip
    """A percentile and its intervals.

    Args:
        values: in the order in which the requests began; shape (n,).
        which: 0 to 100, both excluded.
        owners: for values of which a request has several: the place of the request of each value, ascending; (n,).
        ordered: the same values sorted, when they are at hand.
    """
    needs = needed(which, level)
    if len(values) < needs:
        return Percentile(None, None, None, (None, None), None, needs)
    ordered = np.sort(values) if ordered is None else ordered
    share = which / 100
    value = nearest_rank(ordered, share)
    ranks = order_ranks(len(values), which, level)
    alone = tuple(None if rank is None else float(ordered[rank - 1]) for rank in ranks)
    independent = (alone[0], alone[1])
    error = batch_error((values <= value).astype(np.float64), owners)
    if error is None:  # too few requests for batches; and the gaps of so few are anything but independent
        ends = independent if owners is None else (None, None)
        return Percentile(value, *ends, ends, None, needs)
    half = student_quantile((1 + level) / 2, BATCHES - 1) * error
    low = nearest_rank(ordered, share - half) if share - half > 0 else None
    high = nearest_rank(ordered, share + half) if share + half < 1 else None
    low = None if low is None or independent[0] is None else min(low, independent[0])
    high = None if high is None or independent[1] is None else max(high, independent[1])
    effect = error**2 * len(values) / (share * (1 - share))
    return Percentile(value, low, high, independent, effect, needs)


def batch_error(values: Floats, owners: Integers | None = None) -> float | None:
    """Standard error of the mean from 20 batches of neighbours; None when there are fewer than 40 requests.

    Batches hold equal numbers of requests; where requests have unequal numbers of values, the mean is a ratio and the
    error that of a ratio (Cochran, Sampling Techniques, section 6.3).
    """
    if owners is None:
        owners = np.arange(len(values))
    requests = int(owners[-1]) + 1 if len(owners) else 0
    if requests < 2 * BATCHES:
        return None
    batch = owners * BATCHES // requests
    counts = np.bincount(batch, minlength=BATCHES).astype(np.float64)
    sums = np.bincount(batch, weights=values, minlength=BATCHES)
    residuals = sums - values.mean() * counts
    return float(math.sqrt(BATCHES / (BATCHES - 1) * float((residuals**2).sum())) / len(values))


def mean(values: Floats, owners: Integers | None = None, level: float = LEVEL) -> Estimate:
    """The mean with an interval from batch means; without ends when there are too few values."""
    value = float(values.mean())
    error = batch_error(values, owners)
    if error is None:
        return Estimate(value, None, None)
    half = student_quantile((1 + level) / 2, BATCHES - 1) * error
    return Estimate(value, value - half, value + half)


def rate(per_slice: Floats, slice_s: float) -> Estimate:
    """A rate a second, with a 95 % interval, from amounts in equal slices of time that follow each other.

    Neighbouring slices are not independent: a closed loop's requests come in waves, a stall takes from one slice and
    gives to the next. So the variance is that of Newey and West (Econometrica 55, 1987) over a fifth of the slices, and
    its critical value the one that goes with so many (Kiefer and Vogelsang, Econometric Theory 21, 2005, table 1).

    Args:
        per_slice: shape (RATE_SLICES,).
    """
    count = len(per_slice)
    value = float(per_slice.mean()) / slice_s
    if count < 10:
        return Estimate(value, None, None)
    apart = per_slice - per_slice.mean()
    bandwidth = count // 5
    variance = float(apart @ apart)
    for lag in range(1, bandwidth):
        variance += 2 * (1 - lag / bandwidth) * float(apart[lag:] @ apart[:-lag])
    share = bandwidth / count
    critical = 1.96 + 2.9694 * share + 0.416 * share**2 - 0.5324 * share**3
    half = critical * math.sqrt(max(variance, 0.0)) / count / slice_s
    return Estimate(value, max(0.0, value - half), value + half)


def wilson(successes: float, trials: float, level: float = LEVEL) -> Estimate:
    """Wilson's interval of a share (JASA 22, 1927)."""
    if trials <= 0:
        return Estimate(math.nan, None, None)
    z = _NORMAL.inv_cdf((1 + level) / 2)
    share, weight = successes / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
