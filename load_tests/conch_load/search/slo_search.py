"""The largest rate at which an SLO holds: doubling, then bisection, with repeats.

Runs are noisy: near the threshold the same rate holds in one run and misses in the next. So a rate counts as held or
missed only by the majority of its runs, and the result is a rate with an interval: where the threshold lies, given all
runs of the search (:mod:`conch_load.search.threshold`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from conch_load.honesty.limits import limited
from conch_load.search.threshold import threshold
from conch_load.search.trial import SearchError, Trial

RunAt = Callable[[float, int], Trial]  # rate in requests/s, seed
RunAlone = Callable[[int], Trial]  # one request at a time; seed
Outcome = Literal["found", "limited", "at_highest", "unmet", "unmet_at_lowest", "stopped"]


@dataclass(frozen=True)
class Plan:
    """How to search.

    Attributes:
        start_per_s: first rate.
        lowest_per_s, highest_per_s: rates that are tried at most; requests/s.
        tolerance: the search ends when the rates that hold and miss differ by no more than this share.
        repeats: runs of which the majority decides at the two rates that matter; odd.
        most_runs: it stops after so many, with what it has.
        seed: of the first run; each further one has the next.
    """

    start_per_s: float = 1.0
    lowest_per_s: float = 0.01
    highest_per_s: float = 1e5
    tolerance: float = 0.1
    repeats: int = 3
    most_runs: int = 40
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.lowest_per_s <= self.start_per_s <= self.highest_per_s < math.inf:
            raise SearchError(
                "rates must be above 0, with lowest <= start <= highest, got "
                f"{self.lowest_per_s:g}, {self.start_per_s:g}, {self.highest_per_s:g}"
            )
        if not 0.001 <= self.tolerance <= 1:
            raise SearchError(f"tolerance must be from 0.001 to 1, got {self.tolerance:g}")
        if self.repeats < 1 or self.repeats % 2 == 0:
            raise SearchError(f"repeats must be odd, so that there is a majority, got {self.repeats}")
        if self.most_runs < 1:
            raise SearchError(f"most_runs must be 1 or more, got {self.most_runs}")


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        outcome: ``found``; ``limited``: what bounds it from above is an invalid run, so it is what could be shown, not
            what the server carries; ``at_highest``: the highest rate still holds; ``unmet``: one request at a time
            misses already; ``unmet_at_lowest``: the lowest rate misses; ``stopped``: see reason.
        rate_per_s: the largest rate at which the majority of runs held, and at every smaller one that was tried; None
            if there is none.
        low_per_s, high_per_s: the interval of the threshold, with 95 % probability; high is None where nothing missed.
        trials: all runs, in order.
        reason: in words, for all but ``found``.
    """

    outcome: Outcome
    rate_per_s: float | None
    low_per_s: float | None
    high_per_s: float | None
    trials: tuple[Trial, ...]
    reason: str = ""

    def at(self, rate_per_s: float) -> list[Trial]:
        """The runs at a rate."""
        return [one for one in self.trials if one.rate_per_s == rate_per_s]


class _Stop(Exception):
    """No further run makes sense."""


@dataclass
class _Search:
    run_at: RunAt
    plan: Plan
    trials: list[Trial] = field(default_factory=list)
    too_low_per_s: float | None = None  # the largest rate at which a run could not tell, while nothing had missed

    def run(self, rate: float) -> bool | None:
        """One run at a rate, kept; whether it held. None: it cannot tell, and a higher rate may."""
        if len(self.trials) >= self.plan.most_runs:
            raise _Stop(f"{self.plan.most_runs} runs were made, which is most_runs")
        trial = self.run_at(rate, self.plan.seed + len(self.trials))
        self.trials.append(trial)
        if trial.invalid and not trial.usable:  # a generator that lags makes a run miss, never hold
            why = next((one for one in trial.invalid if not limited(one)), trial.invalid[0])
            raise _Stop(f"the run at {rate:.4g}/s is invalid: {why}")
        if trial.holds is None:
            low, high = self.bracket()
            if low is not None or high is not None:
                raise _Stop(f"the run at {rate:.4g}/s cannot tell: {'; '.join(trial.reasons)}")
            self.too_low_per_s = rate
        return trial.holds

    def votes(self, rate: float) -> tuple[int, int]:
        """How many runs held at a rate, and how many missed."""
        told = [one.holds for one in self.trials if one.rate_per_s == rate and one.usable]
        return told.count(True), told.count(False)

    def settled(self, rate: float) -> bool:
        """Whether it had all its runs."""
        return sum(self.votes(rate)) >= self.plan.repeats

    def bracket(self) -> tuple[float | None, float | None]:
        """The largest rate that holds below the smallest that misses, by majority so far (a tie misses); and that."""
        rates = sorted({one.rate_per_s for one in self.trials if one.rate_per_s and one.usable})
        held = {rate: self.votes(rate)[0] > self.votes(rate)[1] for rate in rates}
        missed = next((rate for rate in rates if not held[rate]), None)
        below = [rate for rate in rates if held[rate] and (missed is None or rate < missed)]
        return (below[-1] if below else None), missed

    def next_rate(self) -> float | None:
        """Where to run next; None when it is known."""
        plan = self.plan
        low, high = self.bracket()
        if low is None and high is None:
            return self._first_rate()
        if low is None:
            assert high is not None
            if high <= plan.lowest_per_s:
                return None if self.settled(high) else high
            if self.too_low_per_s is not None and high / 2 <= self.too_low_per_s:
                raise _Stop(f"{high:.4g}/s misses, and below it a run cannot tell: {self.trials[0].reasons[0]}")
            return max(high / 2, plan.lowest_per_s)
        if high is None:
            if low >= plan.highest_per_s:
                return None if self.settled(low) else low
            return min(low * 2, plan.highest_per_s)
        if high / low > (1 + plan.tolerance) * (1 + 1e-9):
            # Three digits do: rates are read by people. But never one of the two ends again.
            middle = float(f"{math.sqrt(low * high):.3g}")
            return middle if low < middle < high else math.sqrt(low * high)
        return next((rate for rate in (low, high) if not self.settled(rate)), None)

    def _first_rate(self) -> float:
        """The first, or twice the one that was too low to tell: a run has more requests there in the same time."""
        if self.too_low_per_s is None:
            return self.plan.start_per_s
        if 2 * self.too_low_per_s > self.plan.highest_per_s:
            raise _Stop(f"no rate up to {self.plan.highest_per_s:g}/s can tell: {self.trials[-1].reasons[0]}")
        return 2 * self.too_low_per_s


def largest_rate(run_at: RunAt, plan: Plan, alone: RunAlone | None = None) -> Result:
    """Search.

    Args:
        run_at: makes a run at a rate and judges it.
        plan: how.
        alone: makes a run with one request at a time; asked when the first rate misses, because an SLO that is missed
            then is missed at every rate.
    """
    search = _Search(run_at, plan)
    reason = ""
    single: list[Trial] = []
    try:
        while (rate := search.next_rate()) is not None:
            held = search.run(rate)
            if held is False and len(search.trials) == 1 and alone is not None:
                single.append(alone(plan.seed))
                if single[0].holds is False and not single[0].invalid:
                    return unmet(single[0], search.trials)
    except _Stop as stop:
        reason = str(stop)
    except KeyboardInterrupt:  # hours of runs are not thrown away
        reason = "interrupted"
    return _result(search, reason, single)


def unmet(alone: Trial, before: Sequence[Trial] = ()) -> Result:
    """The result when a run with one request at a time misses, or cannot be used."""
    trials = (*before, alone)
    if alone.invalid:
        return Result("stopped", None, None, None, trials, f"the run with one request at a time: {alone.invalid[0]}")
    reason = f"one request at a time misses already: {'; '.join(alone.reasons)}"
    return Result("unmet", None, None, None, trials, reason)


def _result(search: _Search, reason: str, single: list[Trial]) -> Result:
    low, high = search.bracket()
    trials = (*search.trials, *single)
    outcome: Outcome = "stopped" if reason else "found"
    if not reason and high is None:
        outcome, reason = "at_highest", f"the highest rate that may be tried, {search.plan.highest_per_s:g}/s, holds"
    elif not reason and low is None:
        outcome = "unmet_at_lowest"
        reason = f"the lowest rate that may be tried, {search.plan.lowest_per_s:g}/s, misses"
    elif not reason:
        bad = next((one for one in search.trials if one.rate_per_s == high and one.invalid), None)
        if bad is not None:
            outcome, reason = "limited", f"at {high:.4g}/s a run is invalid: {bad.invalid[0]}"
    usable = [(one.rate_per_s, bool(one.holds)) for one in search.trials if one.rate_per_s and one.usable]
    if not usable:
        return Result(outcome, None, None, None, trials, reason)
    bounds = threshold([rate for rate, _ in usable], [held for _, held in usable])
    if low is None:
        return Result(outcome, None, 0.0, bounds.high, trials, reason)
    return Result(outcome, low, min(bounds.low, low), None if high is None else max(bounds.high, low), trials, reason)
