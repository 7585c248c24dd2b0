"""Limits on latencies: ``ttft_p99_ms`` (a percentile must keep to it) or ``ttft_ms`` (each good request must)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from conch_load.analysis.columns import Booleans, Columns
from conch_load.analysis.definitions import CORRECTED
from conch_load.analysis.intervals import Floats

SLO_METRICS = ("ttft", "tpot", "itl", "e2e", "longest_gap")
_NAME = re.compile(rf"({'|'.join(SLO_METRICS)})(?:_p(\d+(?:\.\d+)?))?_ms")


class UnknownObjectiveError(ValueError):
    """A limit that is none of ours. The text names it and says what there is."""


@dataclass(frozen=True)
class Objective:
    """One limit.

    Attributes:
        name: as it was given.
        metric: a key of ``definitions.METRICS``, from the time of sending.
        percentile: 0 to 100; None for a limit of each request.
    """

    name: str
    metric: str
    percentile: float | None
    limit_ms: float


def objectives(limits: Mapping[str, float]) -> tuple[Objective, ...]:
    """Read limits.

    Raises:
        UnknownObjectiveError: a name or a value is not one.
    """
    found = []
    for name, limit in limits.items():
        match = _NAME.fullmatch(name)
        if match is None:
            known = ", ".join(SLO_METRICS)
            raise UnknownObjectiveError(
                f"slo: {name!r} is no limit; it must be METRIC_pNN_ms or METRIC_ms, METRIC one of {known}, "
                "such as ttft_p99_ms"
            )
        percentile = float(match[2]) if match[2] else None
        if percentile is not None and not 0 < percentile < 100:
            raise UnknownObjectiveError(f"slo: {name}: the percentile must be between 0 and 100, got {percentile:g}")
        if not (isinstance(limit, (int, float)) and 0 < limit < math.inf):
            raise UnknownObjectiveError(f"slo: {name} must be a number of ms above 0, got {limit!r}")
        found.append(Objective(name, f"{match[1]}_ms", percentile, float(limit)))
    return tuple(found)


def figure(columns: Columns, metric: str) -> Floats:
    """A figure of each request as an SLO judges it: from when it was due if it was; NaN if it failed."""
    values: Floats = getattr(columns, metric)
    if metric in CORRECTED:
        values = np.where(columns.scheduled, getattr(columns, CORRECTED[metric]), values)
    return np.where(columns.ok, values, np.nan)


def late(columns: Columns, objective: Objective) -> Booleans:
    """Which requests were over the limit; those that failed or lack the figure are."""
    return ~(figure(columns, objective.metric) <= objective.limit_ms)


def limits_of_each(all_objectives: tuple[Objective, ...]) -> dict[str, float]:
    """The limit that each good request keeps, by metric.

    It is the limit without a percentile; where there is none, that of the highest percentile.
    """
    chosen: dict[str, Objective] = {}
    for one in all_objectives:
        rank = 101.0 if one.percentile is None else one.percentile
        other = chosen.get(one.metric)
        if other is None or rank > (101.0 if other.percentile is None else other.percentile):
            chosen[one.metric] = one
    return {metric: one.limit_ms for metric, one in chosen.items()}


def good(columns: Columns, all_objectives: tuple[Objective, ...]) -> Booleans:
    """Which requests met every limit; without limits, which succeeded."""
    met = columns.ok.copy()
    for metric, limit_ms in limits_of_each(all_objectives).items():
        met &= figure(columns, metric) <= limit_ms
    return met
