"""One run of a search, judged: did the SLO hold at that rate?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from conch_load.analysis.intervals import needed
from conch_load.analysis.slo import Objective, objectives
from conch_load.analysis.summary import ObjectiveFigure, Summary
from conch_load.honesty.limits import limited

# An open loop that completes less than this share of what was due did not keep up: its queue grows with the run, and
# its latencies say how long the run was. In a short run a few requests more under way at the end than at the beginning
# are such a share, too: so the difference must also be more than the number in flight varies by, were it Poisson's.
LEAST_COMPLETED, DEVIATIONS = 0.9, 3.0


class SearchError(Exception):
    """A search that cannot be. The text names field, rule and value."""


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        rate_per_s: offered; None: one request at a time, in a closed loop.
        seed: of its arrivals and prompts.
        holds: whether the SLO did; None: the run cannot tell (too few requests).
        reasons: why it did not, or cannot tell.
        invalid: why the run must not be used; empty when it may.
        observed_ms: each limit's percentile, by the limit's name; where it lies among failed requests, or there are too
            few, it is not there.
        late: each limit's requests that were too late, failed ones among them, and all of them.
        rates: from the summary: completed_per_s, output_tokens_per_s and so on.
        folder: of the run.
    """

    rate_per_s: float | None
    seed: int
    holds: bool | None
    reasons: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    observed_ms: Mapping[str, float] = field(default_factory=dict)
    late: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    folder: str = ""

    @property
    def usable(self) -> bool:
        """Whether it counts: it can tell, and if it is invalid then by the generator alone, and it missed."""
        return self.holds is not None and (not self.invalid or (not self.holds and all(map(limited, self.invalid))))


def percentile_limits(slo_ms: Mapping[str, float]) -> tuple[Objective, ...]:
    """The limits of a search.

    Raises:
        SearchError: there is none, or one is not of a percentile.
        UnknownObjectiveError: one is no limit at all.
    """
    found = objectives(slo_ms)
    if not found:
        raise SearchError("slo must have a limit at least, such as ttft_p99_ms=500")
    for one in found:
        if one.percentile is None:
            raise SearchError(f"slo must be of percentiles for a search, METRIC_pNN_ms, got {one.name}")
    return found


def requests_needed(slo_ms: Mapping[str, float]) -> int:
    """How many requests a run must have to judge these limits: those that an interval of the percentile needs.

    Raises:
        SearchError, UnknownObjectiveError: as percentile_limits.
    """
    return max(needed(one.percentile) for one in percentile_limits(slo_ms) if one.percentile is not None)


def judge(summary: Summary, rate_per_s: float | None, folder: str = "") -> Trial:
    """What a run says of its limits.

    A limit holds if no more requests were late than its percentile allows; failed ones are late. With fewer requests
    than the percentile needs it can only be missed, where MLPerf's rule shows so.

    Args:
        summary: of the run.
        rate_per_s: that was offered; None: a closed loop.
        folder: of the run.
    """
    reasons: list[str] = []
    told: list[bool | None] = []
    for one in summary.slo.objectives:
        holds, reason = _judge_one(one)
        told.append(holds)
        reasons += [reason] if reason else []
    rates = {name: one.value for name, one in summary.rates.items()}
    if rate_per_s is not None and _fell_behind(summary):
        told.append(False)
        reasons.append(f"did not keep up: {rates['completed_per_s']:.3g} of {rates['offered_per_s']:.3g} requests/s")
    objectives_of = summary.slo.objectives
    return Trial(
        rate_per_s,
        summary.run.seed,
        False if False in told else None if None in told else True,
        tuple(reasons),
        tuple(summary.invalid),
        {one.name: one.observed_ms for one in objectives_of if one.observed_ms is not None},
        {one.name: (one.late, one.requests) for one in objectives_of},
        rates,
        folder,
    )


def _fell_behind(summary: Summary) -> bool:
    offered, completed = (summary.rates[name].value for name in ("offered_per_s", "completed_per_s"))
    more = (offered - completed) * summary.window.length_s
    varies_by = math.sqrt(2 * max(1.0, summary.little.recorded_in_flight))
    return completed < LEAST_COMPLETED * offered and more > DEVIATIONS * varies_by


def _judge_one(one: ObjectiveFigure) -> tuple[bool | None, str]:
    assert one.percentile is not None  # percentile_limits
    allowed = (1 - one.percentile / 100) * one.requests
    counts = f"{one.late} of {one.requests} requests late"
    if one.requests < needed(one.percentile) and one.outcome != "missed":
        return None, f"{one.name}: {one.requests} requests are too few, {needed(one.percentile)} are needed"
    if one.late <= allowed:
        return True, ""
    observed = "" if one.observed_ms is None else f", {one.observed_ms:.4g} ms"
    return False, f"{one.name}: {counts}{observed}"
