"""Two runs of the same load beside each other, with intervals of what changed.

The interval of a ratio comes from the two intervals by MOVER (Zou and Donner, Statistics in Medicine 27, 2008), on
logarithms; that of a difference of shares likewise (Newcombe, Statistics in Medicine 17, 1998). All rows together are
held to 95 %: each interval is widened as Bonferroni's inequality asks, so that a table of a dozen rows does not show a
difference by mere number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from conch_load.analysis.definitions import CORRECTED, METRICS, RATES
from conch_load.analysis.intervals import LEVEL, Estimate, wilson
from conch_load.analysis.summary import PercentileFigure, Quantity, Summary

Outcome = Literal["better", "worse", "no difference shown", "not known"]
_ROWS = (
    ("ttft_ms", 50), ("ttft_ms", 95), ("ttft_ms", 99), ("tpot_ms", 50), ("tpot_ms", 99), ("gap_ms", 99),
    ("e2e_ms", 50), ("e2e_ms", 99),
)  # fmt: skip
_RATE_ROWS = ("output_tokens_per_s", "completed_per_s", "goodput_per_s")
FAILED = "failed_share"
_NOT_THE_LOAD = frozenset({"seed", "exact_prompt_tokens"})  # repeats have other seeds; the second tells how was counted
KEYS = (*(f"{metric[:-3]}_p{which}_ms" for metric, which in _ROWS), *_RATE_ROWS, FAILED)


class NotComparableError(ValueError):
    """Two runs that did not get the same load. The text says what differs."""


@dataclass(frozen=True)
class Change:
    """One row.

    Attributes:
        key: one of KEYS.
        before, after: None when the run does not have the figure, or too few values for it.
        change: after / before - 1; of ``failed_share`` the difference. None when it cannot be told.
        low, high: its interval, all rows together at 95 %; None for an end that is not bounded.
        worse: the change, its sign such that above 0 is worse: (change, low, high).
    """

    key: str
    label: str
    unit: str
    before: Estimate | None
    after: Estimate | None
    change: float | None
    low: float | None
    high: float | None
    better: Literal["lower", "higher"]
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        """What the interval shows."""
        if self.change is None:
            return "not known"
        low, high = self.worse[1:]
        if low is not None and low > 0:
            return "worse"
        return "better" if high is not None and high < 0 else "no difference shown"

    @property
    def worse(self) -> tuple[float, float | None, float | None]:
        """(change, low, high) with a sign such that above 0 is worse."""
        assert self.change is not None
        if self.better == "lower":
            return self.change, self.low, self.high
        return -self.change, None if self.high is None else -self.high, None if self.low is None else -self.low


def check_comparable(before: Summary, after: Summary) -> None:
    """Refuse runs of different loads.

    Raises:
        NotComparableError: workload, arrivals or limits differ.
    """
    for name in ("workload", "arrivals", "slo_ms"):
        one, other = (load_of(getattr(run.run, name)) for run in (before, after))
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                raise NotComparableError(
                    f"{name}.{key} differs: {one.get(key)!r} in {before.run.name}, {other.get(key)!r} in "
                    f"{after.run.name}; runs of different loads do not say which server is better"
                )


def load_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two loads the same: all but seeds, and how tokens were counted."""
    return {key: value for key, value in told.items() if key not in _NOT_THE_LOAD}


def notes(before: Summary, after: Summary) -> list[str]:
    """What else differs, and what a reader must know."""
    found = [f"{run.run.name} is invalid: {reason}" for run in (before, after) for reason in run.invalid]
    for name in ("front", "model", "target", "seed", "workers", "duration_s", "versions", "host"):
        one, other = getattr(before.run, name), getattr(after.run, name)
        if one != other:
            found.append(f"{name}: {one} before, {other} after")
    found.append(
        "one run each: the intervals hold what varies within a run, not what varies between runs of the same thing; "
        "repeat the runs before you act on a small difference"
    )
    return found


def compare(before: Summary, after: Summary, level: float = LEVEL) -> list[Change]:
    """Every row that both runs have."""
    pairs = list(_pairs(before, after))
    wider = NormalDist().inv_cdf(1 - (1 - level) / 2 / len(pairs)) / NormalDist().inv_cdf((1 + LEVEL) / 2)
    return [_share_row(*pair, wider) if pair[0] == FAILED else _ratio_row(*pair, wider) for pair in pairs]


_Pair = tuple[str, str, str, Literal["lower", "higher"], Estimate | None, Estimate | None, str]


def _pairs(before: Summary, after: Summary) -> Iterator[_Pair]:
    """(key, label, unit, better, before, after, note)."""
    for metric, which in _ROWS:
        name = CORRECTED.get(metric, metric)
        if not (name in before.metrics and name in after.metrics):
            name = metric
        one, other = before.percentile(name, which), after.percentile(name, which)
        if one is None or other is None:
            continue
        short = [f"{run.run.name} has {run.metrics[name].count} values, it needs {figure.needs}"
                 for run, figure in ((before, one), (after, other)) if figure.value is None]  # fmt: skip
        label = f"{METRICS[name].label}, p{which}"
        key, unit, note = f"{metric[:-3]}_p{which}_ms", METRICS[name].unit, "; ".join(short)
        yield key, label, unit, "lower", _estimate(one), _estimate(other), note
    for name in _RATE_ROWS:
        if name in before.rates and name in after.rates:
            rates = _estimate(before.rates[name]), _estimate(after.rates[name])
            yield name, RATES[name].label, RATES[name].unit, "higher", rates[0], rates[1], ""
    failed = [wilson(run.counts.failed, run.counts.measured) for run in (before, after)]
    yield FAILED, "Failed requests", "share", "lower", failed[0], failed[1], ""


def _estimate(figure: PercentileFigure | Quantity) -> Estimate | None:
    return None if figure.value is None else Estimate(figure.value, figure.low, figure.high)


def _ratio_row(key: str, label: str, unit: str, better: Literal["lower", "higher"], before: Estimate | None,
               after: Estimate | None, note: str, wider: float) -> Change:  # fmt: skip
    if before is None or after is None:
        return Change(key, label, unit, before, after, None, None, None, better, note)
    if before.value <= 0 or after.value <= 0:
        same = before.value == after.value
        return Change(key, label, unit, before, after, 0.0 if same else None, None, None, better,
                      "" if same else "a ratio with 0 is not defined")  # fmt: skip
    ratio = math.log(after.value / before.value)
    down = _root(_limb(after.value, after.low), _limb(before.value, before.high), wider)
    up = _root(_limb(after.value, after.high), _limb(before.value, before.low), wider)
    low = None if down is None else math.expm1(ratio - down)
    high = None if up is None else math.expm1(ratio + up)
    return Change(key, label, unit, before, after, math.expm1(ratio), low, high, better, note)


def _limb(value: float, end: float | None) -> float | None:
    """How far an end is away, in logarithms; None when it is not bounded."""
    return None if end is None or end <= 0 else abs(math.log(value / end))


def _root(one: float | None, other: float | None, wider: float) -> float | None:
    return None if one is None or other is None else wider * math.hypot(one, other)


def _share_row(key: str, label: str, unit: str, better: Literal["lower", "higher"], before: Estimate | None,
               after: Estimate | None, note: str, wider: float) -> Change:  # fmt: skip
    assert before is not None
    assert after is not None
    ends = [(0.0 if one.low is None else one.low, 1.0 if one.high is None else one.high) for one in (before, after)]
    change = after.value - before.value
    low = change - wider * math.hypot(after.value - ends[1][0], ends[0][1] - before.value)
    high = change + wider * math.hypot(ends[1][1] - after.value, before.value - ends[0][0])
    return Change(key, label, unit, before, after, change, max(-1.0, low), min(1.0, high), better, note)
