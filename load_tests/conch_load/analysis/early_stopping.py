"""MLPerf's early-stopping verdict: do these requests show that an SLO on a percentile holds, or that it does not?

From the inference rules, "Early stopping": with p the percentile's share, confidence c = 0.99 and tolerance d = 0, a
run of n queries of which h were too late passes when P(X <= h) <= 1 - c for X binomial(n, 1 - p): had the true share
of late queries been 1 - p, so few would be this unlikely. For p99 that takes 459 queries with none too late, 662 with
one, 838 with two. The rules know pass and "not yet"; here a run also fails, by the mirror: P(X >= h) <= 1 - c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from conch_load.analysis.intervals import binomial_cdf

CONFIDENCE = 0.99


@dataclass(frozen=True)
class Verdict:
    """What the requests show.

    Attributes:
        outcome: ``holds``, ``missed`` or ``undecided``.
        queries: requests that were counted.
        late: those that were over the limit, failed ones among them.
        needs: with this many late ones, how many requests would show that it holds.
    """

    outcome: Literal["holds", "missed", "undecided"]
    queries: int
    late: int
    needs: int


def minimum_queries(late: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """The fewest queries of which ``late`` may be over the limit and the SLO still is shown to hold."""
    share = 1 - percentile / 100
    low = late  # with all of them late nothing is shown
    high = max(2 * late, 8)
    while binomial_cdf(late, high, share) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(late, middle, share) <= 1 - confidence:
            high = middle
        else:
            low = middle
    return high


def early_stopping(queries: int, late: int, percentile: float, confidence: float = CONFIDENCE) -> Verdict:
    """The verdict on an SLO for a percentile.

    Args:
        queries: requests of the measured part.
        late: those over the limit; errors count as late.
        percentile: 0 to 100, both excluded.
    """
    share = 1 - percentile / 100
    needs = minimum_queries(late, percentile, confidence)
    if queries >= needs:
        return Verdict("holds", queries, late, needs)
    if late and 1 - binomial_cdf(late - 1, queries, share) <= 1 - confidence:
        return Verdict("missed", queries, late, needs)
    return Verdict("undecided", queries, late, needs)
