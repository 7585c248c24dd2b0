"""A gate: is a run worse than its baseline by more than is allowed, so that a build must stop?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from conch_load.analysis.comparison import FAILED, KEYS, Change

DEFAULT_LIMITS = {"ttft_p99_ms": 0.10, "tpot_p99_ms": 0.10, "output_tokens_per_s": 0.05, FAILED: 0.01}
GateOutcome = Literal["passed", "regressed", "undecided"]


class BadLimitError(ValueError):
    """A limit that is none. The text says what there is."""


@dataclass(frozen=True)
class Check:
    """One limit.

    Attributes:
        limit: the most it may be worse, as a share of the baseline (of ``failed_share``: a difference of shares).
        outcome: ``regressed`` when it is worse beyond the limit, and surely worse at all; ``passed`` when it surely is
            not worse beyond the limit; else ``undecided``: the runs are too short, or too noisy, to tell.
    """

    change: Change
    limit: float
    outcome: GateOutcome


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Read ``10%``, ``0.1`` (for all default rows) or ``ttft_p99_ms=10%``; none gives the default ones.

    Raises:
        BadLimitError: not a row, or not a share.
    """
    if not texts:
        return dict(DEFAULT_LIMITS)
    found: dict[str, float] = {}
    for text in texts:
        name, mark, value = text.rpartition("=")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", value.strip())
        if match is None:
            raise BadLimitError(f"--max-regression must be a share such as 10% or 0.1, got {text!r}")
        share = float(match[1]) / (100 if match[2] else 1)
        if not mark:
            found = {**{key: share for key in DEFAULT_LIMITS if key != FAILED}, FAILED: DEFAULT_LIMITS[FAILED], **found}
        elif name.strip() in KEYS:
            found[name.strip()] = share
        else:
            raise BadLimitError(f"--max-regression: {name.strip()!r} is no row; there are {', '.join(KEYS)}")
    return found


def check(changes: Sequence[Change], limits: Mapping[str, float]) -> list[Check]:
    """Hold every limit against its row.

    Raises:
        BadLimitError: a limit for a row that the two runs do not both have.
    """
    rows = {one.key: one for one in changes}
    for key in limits:
        if key not in rows:
            raise BadLimitError(f"--max-regression: the two runs have no {key} to compare")
    return [Check(rows[key], limit, _outcome(rows[key], limit)) for key, limit in limits.items()]


def _outcome(change: Change, limit: float) -> GateOutcome:
    if change.change is None:
        return "undecided"
    worse, low, high = change.worse
    if worse > limit and low is not None and low > 0:
        return "regressed"
    return "passed" if high is not None and high <= limit else "undecided"
