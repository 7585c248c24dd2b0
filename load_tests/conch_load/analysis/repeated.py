"""Repeated runs on both sides of a comparison: intervals that hold what varies from run to run.

Two runs of the same thing differ by more than the requests within them say: caches, placement, what else the machine
does. With two runs or more on each side the runs themselves are the sample: Welch's interval of the difference of the
means of logarithms (Biometrika 34, 1947), widened by Bonferroni's inequality for all rows together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, variance

from conch_load.analysis.comparison import FAILED, Change, NotComparableError, check_comparable, compare, notes
from conch_load.analysis.intervals import LEVEL, Estimate, student_quantile
from conch_load.analysis.summary import Summary, read_summary
from conch_load.records import RUN_FILE, SUMMARY_FILE, BadRecordError


def read_side(place: Path) -> list[Summary]:
    """The runs of one side: a run folder, a ``summary.json``, or a folder with several runs below it.

    Raises:
        BadRecordError: none of these, or a summary that is not one.
    """
    if not place.is_dir() or (place / SUMMARY_FILE).is_file() or (place / RUN_FILE).is_file():
        return [read_summary(place)]
    found = [read_summary(path) for path in sorted(place.rglob(SUMMARY_FILE))]
    return found or [read_summary(place)]  # which says what is missing


def check_sides(before: Sequence[Summary], after: Sequence[Summary]) -> None:
    """Every run got the same load, and there are enough of them.

    Raises:
        NotComparableError: some did not.
        BadRecordError: one run on one side and several on the other.
    """
    if (len(before) == 1) != (len(after) == 1):
        raise BadRecordError(
            f"one run cannot be compared with several: there are {len(before)} before and {len(after)} after; give one "
            "on each side, or two or more"
        )
    for one in (*before[1:], *after):
        check_comparable(before[0], one)


def compare_sides(before: Sequence[Summary], after: Sequence[Summary], level: float = LEVEL) -> list[Change]:
    """One run on each side: see comparison.compare. More: intervals from the runs' own spread."""
    if len(before) == 1:
        return compare(before[0], after[0], level)
    # Rows as of two single runs; every pair has the same ones, unless a run has no figure at all.
    tables = [{one.key: one for one in compare(before[0], run)} for run in after]
    first = [{one.key: one for one in compare(run, after[0])} for run in before]
    keys = [key for key in tables[0] if all(key in table for table in (*tables, *first))]
    return [
        _row(first[0][key], [table[key].before for table in first], [table[key].after for table in tables],
             (1 - level) / len(keys))
        for key in keys
    ]  # fmt: skip


def _row(shape: Change, before: list[Estimate | None], after: list[Estimate | None], outside: float) -> Change:
    """One row.

    Args:
        shape: has the row's name and unit.
        outside: probability that the interval may miss.
    """
    lacking = sum(one is None for one in (*before, *after))
    values = [[one.value for one in side if one is not None] for side in (before, after)]
    if lacking:
        return replace(shape, before=None, after=None, change=None, low=None, high=None,
                       note=f"{lacking} of the runs have too few values")  # fmt: skip
    share = shape.key == FAILED
    if not share and min(map(min, values)) <= 0:
        return replace(shape, change=None, low=None, high=None, note="a ratio with 0 is not defined")
    scaled = values if share else [[math.log(value) for value in side] for side in values]
    middle = [fmean(side) for side in scaled]
    shift = middle[1] - middle[0]
    half = _welch_half(scaled[0], scaled[1], outside)
    ends = shift - half, shift + half
    sides = [Estimate(one if share else math.exp(one), min(side), max(side))
             for one, side in zip(middle, values, strict=True)]  # fmt: skip
    change, low, high = (one if share else math.expm1(one) for one in (shift, *ends))
    return replace(shape, before=sides[0], after=sides[1], change=change, low=low, high=high, note="")


def _welch_half(one: Sequence[float], other: Sequence[float], outside: float) -> float:
    parts = [variance(side) / len(side) for side in (one, other)]
    if sum(parts) == 0:
        return 0.0
    degrees = sum(parts) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (one, other), strict=True))
    return student_quantile(1 - outside / 2, degrees) * math.sqrt(sum(parts))


def notes_of_sides(before: Sequence[Summary], after: Sequence[Summary]) -> list[str]:
    """What else differs; see comparison.notes."""
    if len(before) == 1:
        return notes(before[0], after[0])
    found = [f"{run.run.name} is invalid: {reason}" for run in (*before, *after) for reason in run.invalid]
    found += [text for text in notes(before[0], after[0])[:-1] if "is invalid: " not in text]
    found.append(
        f"{len(before)} runs before and {len(after)} after: values are their means (of logarithms), in brackets the "
        "lowest and highest run; the intervals hold what varies from run to run"
    )
    return found


__all__ = ["NotComparableError", "check_sides", "compare_sides", "notes_of_sides", "read_side"]
