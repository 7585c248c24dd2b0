"""The charts of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from conch_load.analysis.columns import Booleans, Columns
from conch_load.analysis.intervals import Floats, nearest_rank
from conch_load.analysis.summary import ObjectiveFigure, Summary
from conch_load.records import GeneratorSample
from conch_load.report.chart import Chart
from conch_load.report.scales import Axis, linear, logarithmic, short

_MOST_DOTS = 1400
_SLOWEST = 400
_CURVE_POINTS = 260
_WIDE = 1180


def timeline(found: Columns, summary: Summary, samples: Sequence[GeneratorSample],
             server: Sequence[Mapping[str, Any]] = ()) -> list[str]:  # fmt: skip
    """TTFT, what was in flight, tokens and errors, and the generator, over one axis of time.

    Args:
        server: the server's gauges: ``at_s``, ``waiting``, ``running``, ``kv_cache_usage``, ...
    """
    end_s = float(np.nanmax(np.concatenate([found.final_s, found.sent_s])))
    x = Axis("seconds since the run's start", 0.0, max(end_s, summary.window.end_s))
    panels = [_latency_panel(found, summary, x), _flight_panel(found, x, server)]
    panels.append(_token_panel(found, x, last=not samples))
    if samples:
        panels.append(_generator_panel(samples, x))
    return [panel.render() for panel in panels]


def _bins(x: Axis, most: int = 130) -> Floats:
    """Edges of slices of time, at most so many (and 130)."""
    seconds = x.high - x.low
    most = min(max(most, 4), 130)
    step = next(one for one in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1e9) if seconds / one <= most)
    return np.arange(x.low, x.high + step, step)


def _latency_panel(found: Columns, summary: Summary, x: Axis) -> Chart:
    """Each request's TTFT (end to end where nothing is streamed), by when it was due or sent."""
    whole = bool(np.isnan(found.ttft_ms).all())
    raw = found.e2e_ms if whole else found.ttft_ms
    corrected = found.e2e_corrected_ms if whole else found.ttft_corrected_ms
    values = np.where(np.isnan(corrected), raw, corrected)
    name = "end to end" if whole else "TTFT"
    clock = " from when due" if found.scheduled.any() else ""
    shown = found.ok & ~np.isnan(values)
    failed = ~found.ok
    y = logarithmic(f"{name}, ms", values[shown].tolist())
    chart = Chart(f"{name}{clock} of each request, by its start", x, y, _WIDE, 270, x_labels=False)
    _shade_outside(chart, summary)
    keep = _thinned(values, shown)
    hints = [f"{found.start_s[one]:.2f} s: {values[one]:,.1f} ms" for one in keep]
    dots = [(float(found.start_s[one]), float(values[one])) for one in keep]
    chart.dots(dots, "c1 faint", f"a request ({name})", hints)
    edges = _bins(x, len(keep) // 12)
    middle: list[tuple[float, float]] = []
    high: list[tuple[float, float]] = []
    for begin, end in pairwise(edges):
        inside = np.sort(values[shown & (found.start_s >= begin) & (found.start_s < end)])
        if len(inside) >= 5:
            middle.append(((begin + end) / 2, nearest_rank(inside, 0.5)))
            high.append(((begin + end) / 2, nearest_rank(inside, 0.95)))
    width = f"{edges[1] - edges[0]:g} s"
    chart.line(middle, "c2", f"p50 of each {width}", [f"p50 {v:,.1f} ms" for _, v in middle])
    chart.line(high, "c4", f"p95 of each {width}", [f"p95 {v:,.1f} ms" for _, v in high])
    rows = np.flatnonzero(failed)[:_MOST_DOTS]
    chart.dots([(float(found.start_s[row]), y.high) for row in rows], "bad", "failed (at the top)",
               [f"{found.start_s[row]:.2f} s: {found.code[row]}" for row in rows], 3)  # fmt: skip
    for one in summary.slo.objectives:
        if one.metric == ("e2e_ms" if whole else "ttft_ms"):
            chart.rule(one.limit_ms, f"SLO {one.name} {one.limit_ms:g}")
    return chart


def _thinned(values: Floats, shown: Booleans) -> list[int]:
    """Rows to draw: all, or the slowest and every so-manieth of the rest."""
    rows = np.flatnonzero(shown)
    if len(rows) <= _MOST_DOTS:
        return [int(row) for row in rows]
    by_size = rows[np.argsort(values[rows])]
    rest = np.sort(by_size[:-_SLOWEST])
    every = math.ceil(len(rest) / (_MOST_DOTS - _SLOWEST))
    return sorted(int(row) for row in (*rest[::every], *by_size[-_SLOWEST:]))


def _shade_outside(chart: Chart, summary: Summary) -> None:
    chart.shade(chart.x.low, summary.window.start_s, "not measured: warm-up")
    chart.shade(summary.window.end_s, chart.x.high, "not measured: answers to what was sent before")


def _flight_panel(found: Columns, x: Axis, server: Sequence[Mapping[str, Any]]) -> Chart:
    """How many were in flight: sent and waiting for a first token, and streaming; and the server's own queue."""
    edges = _bins(x)
    ends = np.where(np.isnan(found.final_s), x.high, found.final_s)
    firsts = np.where(np.isnan(found.first_s), ends, found.first_s)
    total = _occupied(found.sent_s, ends, edges)
    waiting = _occupied(found.sent_s, firsts, edges)
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    y = linear("requests", total.tolist())
    chart = Chart("In flight (mean of each slice)", x, y, _WIDE, 150, x_labels=False)
    points = list(zip(middles, total.tolist(), strict=True))
    chart.area(points, "c1", "in flight", [f"{at:.1f} s: {value:.1f} in flight" for at, value in points])
    points = list(zip(middles, waiting.tolist(), strict=True))
    chart.area(points, "c3", "of these waiting for their first token",
               [f"{at:.1f} s: {value:.1f} wait for their first token" for at, value in points])  # fmt: skip
    for name, css in (("waiting", "c4"), ("running", "c5")):
        points = [(one["at_s"], one[name]) for one in server if one.get(name) is not None and one["at_s"] <= x.high]
        text = f"the server says {name}"
        chart.line(points, css, text, [f"{at:.1f} s: {text} {value:.0f}" for at, value in points], step=True)
    return chart


def _occupied(begins: Floats, ends: Floats, edges: Floats) -> Floats:
    """Mean number of [begin, end) that are open in each slice: shape (slices,)."""
    # The integral of the number up to t is sum(max(t - begin, 0)) - sum(max(t - end, 0)).
    def integral(at: Floats, stamps: Floats) -> Floats:
        ordered = np.sort(stamps)
        before = np.searchsorted(ordered, at)
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        result: Floats = at * before - sums[before]
        return result

    area = integral(edges, begins) - integral(edges, ends)
    mean: Floats = np.diff(area) / np.diff(edges)
    return mean


def _token_panel(found: Columns, x: Axis, last: bool) -> Chart:
    edges = _bins(x)
    amounts, _ = np.histogram(found.chunk_s, bins=edges, weights=found.chunk_amount)
    per_s = amounts / np.diff(edges)
    ends = np.where(np.isnan(found.final_s), found.sent_s, found.final_s)
    bad, _ = np.histogram(ends[~found.ok], bins=edges)
    y = linear("tokens/s", per_s.tolist())
    chart = Chart("Tokens out a second, and failed requests", x, y, _WIDE, 170 if last else 140, x_labels=last)
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    points = list(zip(middles, per_s.tolist(), strict=True))
    chart.line(points, "c2", "tokens out", [f"{at:.1f} s: {short(value)} tokens/s" for at, value in points])
    if bad.any():
        scale = y.high * 0.5 / bad.max()
        bars = [(float(a), float(b), n * scale) for a, b, n in zip(edges, edges[1:], bad, strict=False) if n]
        chart.bars(bars, "bad", f"failed requests ended (tallest bar: {bad.max()})",
                   [f"{n} failed" for n in bad if n])  # fmt: skip
    return chart


def _generator_panel(samples: Sequence[GeneratorSample], x: Axis) -> Chart:
    by_worker: dict[int, list[GeneratorSample]] = {}
    for sample in samples:
        by_worker.setdefault(sample.worker, []).append(sample)
    y = linear("ms", [one.loop_lag_ms for one in samples])
    chart = Chart("The generator itself: longest lag of its event loop, each second", x, y, _WIDE, 150)
    for place, (worker, own) in enumerate(sorted(by_worker.items())):
        own.sort(key=lambda one: one.at_ns)
        points = [(one.at_ns / 1e9, one.loop_lag_ms) for one in own]
        hints = [f"{one.at_ns / 1e9:.0f} s: lag {one.loop_lag_ms:.1f} ms, processor {one.cpu_share:.0%}, "
                 f"{one.late_starts} late starts" for one in own]  # fmt: skip
        chart.line(points, f"c{place % 6 + 1}", f"worker {worker}" if len(by_worker) > 1 else "", hints)
    return chart


def distributions(found: Columns, summary: Summary, measured: Booleans) -> list[str]:
    """The share of requests (gaps) at or below each value, tails stretched."""
    chosen = measured & found.ok
    gaps, _ = found.gaps_of(chosen)
    limits = summary.slo.objectives
    charts = [
        curves("TTFT", "ms", [("from when due", found.ttft_corrected_ms[chosen], "c4"),
                               ("from sending", found.ttft_ms[chosen], "c1")], limits, "ttft_ms"),
        curves("TPOT", "ms per token", [("TPOT", found.tpot_ms[chosen], "c2")], limits, "tpot_ms"),
        curves("Gaps between chunks", "ms", [("all gaps", gaps, "c3"),
                                              ("longest of each request", found.longest_gap_ms[chosen], "c5")],
                limits, "longest_gap_ms"),
        curves("End to end", "ms", [("from when due", found.e2e_corrected_ms[chosen], "c4"),
                                     ("from sending", found.e2e_ms[chosen], "c1")], limits, "e2e_ms"),
    ]  # fmt: skip
    return [chart for chart in charts if chart]


def curves(title: str, unit: str, series: list[tuple[str, Floats, str]], objectives: Sequence[ObjectiveFigure],
           metric: str) -> str:  # fmt: skip
    """The share of values at or below each, for some series of (name, values, class); "" when there is too little.

    Args:
        objectives: the limits of ``metric`` among them are drawn.
    """
    kept = [(name, np.sort(values[~np.isnan(values)]), css) for name, values, css in series]
    kept = [one for one in kept if len(one[1]) >= 2]
    if not kept:
        return ""
    tail = 1 / max(len(values) for _, values, _ in kept) / 2
    y = Axis("share at or below", max(tail, 1e-5), 1 - max(tail, 1e-5), "probit")
    limits = [one.limit_ms for one in objectives if one.metric == metric]
    ends = [float(values[place]) for _, values, _ in kept for place in (0, -1)]
    low = max(min(ends), max(ends) / 1e5, 1e-3)
    chart = Chart(title, logarithmic(f"{title}, {unit}", [low, *ends[1::2], *limits]), y, 580, 320)
    for name, values, css in kept:
        places = _curve_places(len(values))
        points = [(float(values[place]), (place + 0.5) / len(values)) for place in places]
        hints = [f"{name}: {share:.4%} at or below {value:,.2f} ms" for value, share in points]
        chart.line(points, css, f"{name} ({len(values):,})", hints)
    for one in objectives:
        if one.metric == metric:
            chart.rule(one.limit_ms, f"SLO {one.limit_ms:g}", across=False)
    return chart.render()


def _curve_places(count: int) -> list[int]:
    """Which of the sorted values to draw: all, or evenly along the stretched axis."""
    if count <= _CURVE_POINTS:
        return list(range(count))
    stretch = Axis("", 0.5 / count, 1 - 0.5 / count, "probit")
    shares = np.linspace(0, count - 1, min(count, 50_000)).astype(int)
    marks: dict[int, int] = {}
    for place in shares.tolist():
        marks.setdefault(int(stretch.place((place + 0.5) / count) * _CURVE_POINTS), place)
    tail = range(max(0, count - 30), count)  # the slowest are what one looks for
    return sorted({*marks.values(), *tail})
