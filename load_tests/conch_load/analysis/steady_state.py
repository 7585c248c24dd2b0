"""Where the warm-up ends, and whether what follows stands still.

MSER-5 (White, Simulation 69, 1997): of all beginnings that could be cut, cut the one that leaves the mean of the rest
known best, judged over batches of five. On values as they are it would also cut everything before a stall in the
middle of a run, and so hide it; on ranks a cut pays only when about half of what it takes away is out of the ordinary.
So ranks are used here. And MSER-5 cuts something of a series that has no beginning to speak of, or a stall that comes
early; so a cut counts only when its own first third already differs from what it leaves (Mann and Whitney), and not at
all when it would take half of the run: then there is no steady state to find, and the whole is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from conch_load.analysis.intervals import BATCHES, Floats

BATCH = 5
SIGNIFICANCE = 0.01
LEAST_CHANGE = 0.10
_NEAR_HALF = 0.9
_Z = NormalDist().inv_cdf(1 - SIGNIFICANCE / 2)


@dataclass(frozen=True)
class Trend:
    """A series over the measured part.

    Attributes:
        p_value: of no trend, by Mann and Kendall; None when the series is too short.
        change: from the first third to the last, as a share of the first; None when that is 0 or too short.
        drifts: both say that it does not stand still.
    """

    p_value: float | None
    change: float | None
    drifts: bool


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[inverse]
    return shared


@dataclass(frozen=True)
class Cut:
    """How much of the beginning to leave out.

    Attributes:
        count: values to cut, a multiple of five.
        reached_half: the search came to its end at half of the values; count is 0 then.
    """

    count: int
    reached_half: bool


def mser5(values: Floats) -> Cut:
    """Where the warm-up ends.

    Args:
        values: in the order of time, without gaps; shape (n,).
    """
    batches = len(values) // BATCH
    if batches < 4:
        return Cut(0, False)
    places = ranks(values)
    means = places[: batches * BATCH].reshape(batches, BATCH).mean(axis=1)
    left = np.arange(batches, 0, -1).astype(np.float64)
    sums = np.cumsum(means[::-1])[::-1]
    squares = np.cumsum(means[::-1] ** 2)[::-1]
    statistic = (squares - sums**2 / left) / left**2
    best = int(np.argmin(statistic[: batches // 2 + 1]))
    count = best * BATCH
    if not _begins_differently(places, count):
        return Cut(0, False)
    reached_half = best >= _NEAR_HALF * (batches // 2)
    return Cut(0 if reached_half else count, reached_half)


def _begins_differently(places: Floats, count: int) -> bool:
    """Whether the first third of a cut differs from all that the cut leaves, by Mann and Whitney's test."""
    if not 0 < count < len(places):
        return False
    first = max(BATCH, count // 3)
    both = ranks(np.concatenate([places[:first], places[count:]]))
    total = len(both)
    surplus = float(both[:first].sum()) - first * (total + 1) / 2
    return abs(surplus) > _Z * math.sqrt(first * (total - first) * (total + 1) / 12)


def trend(values: Floats) -> Trend:
    """Whether a series in the order of time goes up or down, over 20 batches of neighbours."""
    if len(values) < 2 * BATCHES:
        return Trend(None, None, False)
    means = np.array([part.mean() for part in np.array_split(values, BATCHES)])
    earlier, later = np.triu_indices(BATCHES, 1)
    score = float(np.sign(means[later] - means[earlier]).sum())
    variance = BATCHES * (BATCHES - 1) * (2 * BATCHES + 5) / 18
    z = 0.0 if score == 0 else (score - math.copysign(1, score)) / math.sqrt(variance)
    p_value = 2 * (1 - NormalDist().cdf(abs(z)))
    third = len(values) // 3
    first, last = float(values[:third].mean()), float(values[-third:].mean())
    change = (last - first) / abs(first) if first else None
    return Trend(p_value, change, p_value < SIGNIFICANCE and change is not None and abs(change) >= LEAST_CHANGE)
