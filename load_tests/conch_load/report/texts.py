"""Figures as text: the same words in HTML, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from conch_load.analysis.definitions import CORRECTED, METRICS, RATES
from conch_load.analysis.summary import Distribution, PercentileFigure, Quantity, Summary

UNBOUNDED = "∞"
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A figure in a table: its text, its interval, and why it is not there."""

    text: str
    interval: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.interval})" if self.interval else self.text


def number(value: float) -> str:
    """Three signs or more: 0.12, 1.23, 12.3, 123, 12,345."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """``118–131``; an end that the run does not bound is 0 or ∞."""
    if low is None and high is None:
        return ""
    return f"{'0' if low is None else number(low)}–{UNBOUNDED if high is None else number(high)}"


def cell(figure: PercentileFigure | Quantity | None) -> Cell:
    """A percentile or a quantity with its interval."""
    if figure is None:
        return Cell(NONE)
    if figure.value is None:
        return Cell(NONE, hint=f"needs {figure.needs:,} values" if isinstance(figure, PercentileFigure) else "")
    effect = figure.design_effect if isinstance(figure, PercentileFigure) else None
    hint = f"design effect {effect:.1f}" if effect is not None else ""
    return Cell(number(figure.value), interval(figure.low, figure.high), hint)


def metric_rows(summary: Summary) -> list[tuple[str, str, list[Cell], bool]]:
    """(key, label with unit, cells of count, mean, percentiles and highest, whether it is corrected)."""
    names = _percentiles(summary)
    rows = []
    for key, definition in METRICS.items():
        found = summary.metrics.get(key)
        if found is None:
            continue
        cells = [Cell(f"{found.count:,}"), cell(found.mean), *(cell(found.percentiles.get(name)) for name in names),
                 Cell(number(found.highest))]  # fmt: skip
        rows.append((key, f"{definition.label}, {definition.unit}", cells, key in CORRECTED.values()))
    return rows


def metric_heads(summary: Summary) -> list[str]:
    """The heads of the columns of metric_rows."""
    return ["values", "mean", *_percentiles(summary), "highest"]


def _percentiles(summary: Summary) -> list[str]:
    names = {name for one in summary.metrics.values() for name in one.percentiles}
    return sorted(names, key=lambda name: float(name[1:]))


def rate_rows(summary: Summary) -> list[tuple[str, str, Cell]]:
    """(key, label, cell)."""
    sent = {} if summary.open_loop else {"offered_per_s": "Requests sent"}
    return [(key, sent.get(key, RATES[key].label), cell(figure)) for key, figure in summary.rates.items()]


def check_text(found: Any) -> str:
    """What a check of the generator found, flat."""
    if not isinstance(found, Mapping):
        return str(found)
    shown = {name.replace("_", " "): value for name, value in found.items() if value not in ([], {}, None)}
    return " · ".join(f"{name} {value}" for name, value in shown.items())


def omission(summary: Summary) -> list[str]:
    """What timing from sending hides: the percentile at which it hides most, and that of p99 where there is one."""
    found = []
    for raw, corrected in CORRECTED.items():
        pair = summary.metrics.get(raw), summary.metrics.get(corrected)
        if pair[0] is None or pair[1] is None:
            continue
        label = METRICS[raw].label.split(",")[0]
        hidden = _hidden(pair[0], pair[1])
        if not hidden:
            continue
        most = max(hidden, key=lambda name: hidden[name][1] - hidden[name][0])
        if hidden[most][1] - hidden[most][0] <= max(1.0, 0.02 * hidden[most][1]):
            found.append(f"{label}: timing from sending hides nothing at any of these percentiles{_lateness(summary)}")
            continue
        for name in dict.fromkeys((most, *(one for one in ("p99",) if one in hidden))):
            sent, due = hidden[name]
            found.append(
                f"{name} of {label} is {number(due)} ms from when due and {number(sent)} ms from sending: timing from "
                f"sending hides {number(due - sent)} ms ({(due - sent) / due:.0%})"
            )
    return found


def _lateness(summary: Summary) -> str:
    delay = summary.metrics.get("start_delay_ms")
    if delay is None:
        return ""
    late_ms = number(delay.highest)
    return "; every request left on time" if delay.highest < 10 else f", though some left {late_ms} ms late"


def _hidden(raw: Distribution, corrected: Distribution) -> dict[str, tuple[float, float]]:
    """By percentile: (from sending, from when due)."""
    found = {}
    for name, figure in corrected.percentiles.items():
        sent = raw.percentiles[name].value
        if sent is not None and figure.value is not None:
            found[name] = (sent, figure.value)
    return found


def objective_rows(summary: Summary) -> list[dict[str, str]]:
    """The verdict on each limit in words; ``state`` is good, bad or unknown."""
    words = {"holds": "holds", "missed": "missed", "undecided": "undecided"}
    rows = []
    for one in summary.slo.objectives:
        outcome = one.outcome or "–"
        detail = ""
        if one.outcome == "undecided":
            detail = f"with {one.late} late it takes {one.needs:,} requests to show that it holds"
        if one.outcome_if_dependent and one.outcome_if_dependent != one.outcome:
            detail = "undecided when late requests that come together count as one"
        rows.append({
            "name": one.name, "limit": f"{number(one.limit_ms)} ms", "late": f"{one.late:,} of {one.requests:,}",
            "observed": NONE if one.observed_ms is None else f"{number(one.observed_ms)} ms",
            "clock": "from when due" if one.from_due and one.metric in CORRECTED else "from sending",
            "outcome": words.get(outcome, outcome), "detail": detail,
            "state": {"holds": "good", "missed": "bad"}.get(outcome, "unknown"),
        })  # fmt: skip
    return rows


def load_text(arrivals: Mapping[str, Any]) -> str:
    """How requests arrived: ``16 users, closed loop`` or ``Poisson arrivals, 4 a second``."""
    kind = str(arrivals.get("kind"))
    if kind == "closed":
        return f"{arrivals.get('users')} users, closed loop"
    rate = arrivals.get("rate_per_s")
    return f"{kind.capitalize()} arrivals" + (f", {rate:g} a second" if isinstance(rate, (int, float)) else "")


def workload_text(workload: Mapping[str, Any]) -> str:
    """What was asked, in a few words."""
    lengths = f"{workload.get('input_tokens', '?')} tokens in, {workload.get('output_tokens', '?')} out"
    return f"{workload.get('kind', 'workload')}: {lengths}"


def started(summary: Summary) -> str:
    """When the run began."""
    return datetime.fromtimestamp(summary.run.started_unix_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
