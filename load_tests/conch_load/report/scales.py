"""Axes of charts: from values to places, and where the ticks go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

_NORMAL = NormalDist()
_PROBIT_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        kind: ``probit`` stretches shares so that both tails can be read; values are shares of 1.
        low, high: the ends, in values.
    """

    label: str
    low: float
    high: float
    kind: Literal["linear", "log", "probit"] = "linear"

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one; beyond the ends it is drawn at the end."""
        low, high = self._stretched(self.low), self._stretched(self.high)
        held = min(max(value, self.low), self.high)
        return (self._stretched(held) - low) / (high - low)

    def _stretched(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        return _NORMAL.inv_cdf(value) if self.kind == "probit" else value

    def ticks(self, most: int = 7) -> list[tuple[float, str]]:
        """Values and their texts."""
        if self.kind == "probit":
            return [(one, f"{one * 100:g} %") for one in _PROBIT_TICKS if self.low <= one <= self.high]
        ticks = _log_ticks if self.kind == "log" else _linear_ticks
        return [(one, short(one)) for one in ticks(self.low, self.high, most)]


def linear(label: str, values: list[float], low: float | None = 0.0) -> Axis:
    """An axis that holds all values and, unless it is None, ``low``."""
    least, most = (min(values), max(values)) if values else (0.0, 1.0)
    least = min(least, low) if low is not None else least
    if most <= least:
        most = least + (abs(least) or 1.0)
    return Axis(label, least, most + (most - least) * 0.06)


def logarithmic(label: str, values: list[float]) -> Axis:
    """A logarithmic axis that holds all values above 0, half a decade at least."""
    kept = [one for one in values if one > 0]
    least, most = (min(kept) / 1.15, max(kept) * 1.15) if kept else (1.0, 10.0)
    if most / least < 3:
        middle = math.sqrt(most * least)
        least, most = middle / 1.8, middle * 1.8
    return Axis(label, least, most, "log")


def short(value: float) -> str:
    """A number in few signs: 0.25, 12, 1,500, 20k."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 10_000:
        return f"{value / 1e3:.4g}k"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= most:
            break
    return found
