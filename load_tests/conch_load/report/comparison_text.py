"""A comparison and a gate as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conch_load.analysis.comparison import FAILED, Change
from conch_load.analysis.intervals import Estimate
from conch_load.analysis.regression import Check
from conch_load.report import texts

HEADS = ("figure", "before", "after", "change", "95 % interval, all rows together", "so")


def _value(key: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return texts.NONE
    if key == FAILED:
        return f"{estimate.value:.2%}"
    inside = texts.interval(estimate.low, estimate.high)
    return texts.number(estimate.value) + (f" ({inside})" if inside else "")


def _percent(value: float | None, missing: str, key: str) -> str:
    if value is None:
        return missing
    return f"{value * 100:+.2f} points" if key == FAILED else f"{value:+.1%}"


def change_texts(change: Change) -> tuple[str, ...]:
    """The cells of a row."""
    moved = _percent(change.change, texts.NONE, change.key)
    interval = f"{_percent(change.low, '-100%', change.key)} to {_percent(change.high, '+∞', change.key)}"
    if change.change is None or (change.low is None and change.high is None):
        interval = change.note or texts.NONE
    unit = "" if change.key == FAILED else ", /s" if change.unit == "1/s" else f", {change.unit}"
    return (f"{change.label}{unit}", _value(change.key, change.before), _value(change.key, change.after), moved,
            interval, change.outcome)  # fmt: skip


def verdict(changes: Sequence[Change]) -> str:
    """One sentence."""
    parts = []
    for outcome in ("worse", "better"):
        rows = [one for one in changes if one.outcome == outcome]
        if rows:
            shown = ", ".join(f"{one.label} {_percent(one.change, '', one.key)}" for one in rows)
            parts.append(f"{outcome}: {shown}")
    return "; ".join(parts) if parts else "no difference is shown between the two runs"


def table(changes: Sequence[Change], markdown: bool) -> str:
    """All rows."""
    return _table(HEADS, [change_texts(one) for one in changes], markdown)


def gate_table(checks: Sequence[Check], markdown: bool) -> str:
    """All limits."""
    rows = []
    for one in checks:
        cells = change_texts(one.change)
        limit = f"{one.limit * 100:g} points" if one.change.key == FAILED else f"{one.limit:.1%}"
        rows.append((cells[0], cells[1], cells[2], cells[3], cells[4], limit, one.outcome))
    return _table((*HEADS[:-1], "may be worse by", "gate"), rows, markdown)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    )


def as_json(change: Change) -> dict[str, Any]:
    """A row for machines."""
    def ends(one: Estimate | None) -> dict[str, float | None] | None:
        return None if one is None else {"value": one.value, "low": one.low, "high": one.high}

    return {"key": change.key, "unit": change.unit, "better": change.better, "before": ends(change.before),
            "after": ends(change.after), "change": change.change, "low": change.low, "high": change.high,
            "outcome": change.outcome, "note": change.note}  # fmt: skip
