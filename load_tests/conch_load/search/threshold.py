"""Where a rate begins to miss, from runs that held and runs that did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
# A run may miss or hold for reasons that have nothing to do with its rate; without this one odd run decides.
_LAPSE = 0.02
# How wide the range of rates is in which a run may go either way: from 3 % to half of the rate.
_WIDTHS = np.geomspace(0.03, 0.5, 24)
_POINTS = 2000
_BEYOND = 4.0  # how far outside the rates that were tried the threshold may lie, as a factor


@dataclass(frozen=True)
class Threshold:
    """The rate at which a run holds as often as not; low and high enclose it with probability LEVEL."""

    median: float
    low: float
    high: float


def threshold(rates: Sequence[float], held: Sequence[bool]) -> Threshold:
    """The posterior of the threshold, with P(hold) = 1 / (1 + exp((ln rate - ln threshold) / width)) and a flat prior
    on ln threshold and ln width.

    Args:
        rates: of the runs, above 0; at least one.
        held: whether each held.
    """
    x, y = np.log(np.asarray(rates)), np.asarray(held, dtype=bool)
    points = np.linspace(x.min() - np.log(_BEYOND), x.max() + np.log(_BEYOND), _POINTS)
    # (threshold, width, run)
    z = (x[None, None, :] - points[:, None, None]) / _WIDTHS[None, :, None]
    holds = _LAPSE / 2 + (1 - _LAPSE) / (1 + np.exp(np.clip(z, -500, 500)))
    likelihood = np.where(y[None, None, :], np.log(holds), np.log1p(-holds)).sum(axis=2)
    weights = np.exp(likelihood - likelihood.max()).sum(axis=1)
    cumulative = np.cumsum(weights) / weights.sum()
    tail = (1 - LEVEL) / 2
    low, median, high = (float(np.exp(points[np.searchsorted(cumulative, q)])) for q in (tail, 0.5, 1 - tail))
    return Threshold(median, low, high)
