"""The server's side of a run as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TIMES_OF_A_MODEL = ("calls_per_generation", "call_ms", "queue_ms", "compute_infer_ms", "per_generation_ms")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _quantile(told: Mapping[str, float | None] | None) -> str:
    """As far as buckets tell: the straight line's value, and the bucket it lies in."""
    if told is None:
        return "-"
    if told["high"] is None:
        return f"> {_number(told['low'])}"
    return f"{_number(told['value'])} ({_number(told['low'])}..{_number(told['high'])})"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def as_text(told: Mapping[str, Any]) -> str:
    """For a terminal."""
    window = told["window"]
    out = [f"engine: {told['engine'] or 'unknown'}; {window['samples']} samples"]
    if window["samples"]:
        seconds = window["end_s"] - window["begin_s"]
        out[0] += f" over {seconds:.1f} s, none took more than {window['highest_took_ms']} ms"
    rows = [["", "mean", "highest"]]
    rows += [[name, _number(one["mean"]), _number(one["highest"])] for name, one in told["gauges"].items()]
    out += ["", *_table(rows)]
    rows = [["", "number", "mean", "p50 (bucket)", "p99 (bucket)"]]
    for name, one in told["times"].items():
        rows.append([name, _number(one["count"]), _number(one["mean"]), _quantile(one["p50"]), _quantile(one["p99"])])
    out += ["", *_table(rows)]
    rows = [[name, _number(value)] for name, value in told["counters"].items()]
    out += ["", *_table(rows)] if rows else []
    rows = [["model", "calls", "failed", *_TIMES_OF_A_MODEL, ""]]
    for one in told["models"]:
        note = "times end when execute returns" if one["decoupled"] and one["step_of_entry"] else ""
        numbers = [_number(one[name]) for name in ("calls", "failed", *_TIMES_OF_A_MODEL)]
        rows.append([one["model"], *numbers, note])
    out += ["", *_table(rows)] if told["models"] else []
    out += [f"began anew at {one['at_s']:.1f} s: {one['series']}" for one in told["resets"]]
    out += [f"missing: {one}" for one in told["missing"]]
    return "\n".join(out)
