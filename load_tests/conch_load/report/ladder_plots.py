"""The charts of several runs: latency against throughput and against load, goodput against rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from conch_load.analysis.summary import PercentileFigure
from conch_load.report import texts
from conch_load.report.chart import Chart
from conch_load.report.ladder import Rung, fronts, key_of
from conch_load.report.scales import linear, logarithmic

_ONE_FRONT = (("p50", "c1"), ("p95", "c3"), ("p99", "c4"))
_MORE_FRONTS = (("p50", ""), ("p99", " dash"))


def charts(found: Sequence[Rung]) -> list[Markup]:
    """All charts of a ladder; in an open loop the latencies against the rate as well."""
    sides = (False, True) if found[0].summary.open_loop else (False,)
    made = [latency(found, metric, by_load) for by_load in sides for metric in ("ttft", "tpot")]
    return [Markup(chart.render()) for chart in (*made, throughput(found), goodput(found)) if chart is not None]


@dataclass(frozen=True)
class _Dot:
    """A percentile of a run."""

    rung: Rung
    x: float
    figure: PercentileFigure
    value: float


def latency(found: Sequence[Rung], metric: str, by_load: bool) -> Chart | None:
    """Percentiles of a latency against tokens out a second, or against the load.

    Args:
        metric: ``ttft`` or ``tpot``.
    """
    names = fronts(found)
    series = [
        (_dots([one for one in found if one.summary.run.front == front], metric, which, by_load),
         css if len(names) == 1 else f"c{place % 6 + 1}{css}", which if len(names) == 1 else f"{front} {which}")
        for place, front in enumerate(names) for which, css in (_ONE_FRONT if len(names) == 1 else _MORE_FRONTS)
    ]  # fmt: skip
    dots = [dot for own, _, _ in series for dot in own]
    if not dots:
        return None
    label, across = metric.upper(), ("requests due a second" if by_load else "tokens out a second")
    objectives = [one for rung in found for one in rung.summary.slo.objectives]
    limits = sorted({one.limit_ms for one in objectives if one.metric == f"{metric}_ms"})
    heights = [dot.value for dot in dots]
    up = logarithmic(f"{label}, ms", [*heights, *limits, min(heights) / 1.2])  # room for the labels below the lowest
    title = f"{label} against {'rate' if by_load else 'throughput'}"
    chart = Chart(title, linear(across, [dot.x for dot in dots]), up, 580, 360)
    for own, css, legend in series:
        _draw(chart, own, css, legend)
    if not by_load:
        for x, y, rung in _middles(series[0][0]):
            chart.label((x, y), rung.load_text)
    for limit in limits:
        chart.rule(limit, f"SLO {limit:g}")
    return chart


def _dots(own: Sequence[Rung], metric: str, which: str, by_load: bool) -> list[_Dot]:
    made = []
    for rung in own:
        distribution = rung.summary.metrics.get(key_of(rung.summary, metric))
        figure = None if distribution is None else distribution.percentiles.get(which)
        if figure is not None and figure.value is not None:
            x = rung.load if by_load else rung.summary.rates["output_tokens_per_s"].value
            made.append(_Dot(rung, x, figure, figure.value))
    return made


def _draw(chart: Chart, own: Sequence[_Dot], css: str, legend: str) -> None:
    """Each run a dot, with its interval where it was not repeated; the line goes through the medians of each load."""
    color = css.split()[0]
    loads = [dot.rung.load for dot in own]
    for dot in own:
        if loads.count(dot.rung.load) == 1:
            chart.whisker(dot.x, dot.figure.low, dot.figure.high, color)
    chart.line([(x, y) for x, y, _ in _middles(own)], css, legend)
    hints = [f"{dot.rung.load_text}: {legend} {texts.cell(dot.figure)} ms" for dot in own]
    chart.dots([(dot.x, dot.value) for dot in own], color, "", hints, 3.5)


def _middles(own: Sequence[_Dot]) -> list[tuple[float, float, Rung]]:
    """One point a load: the medians of its runs."""
    by_load: dict[float, list[_Dot]] = {}
    for dot in own:
        by_load.setdefault(dot.rung.load, []).append(dot)
    return [
        (median(dot.x for dot in dots), median(dot.value for dot in dots), dots[0].rung)
        for _, dots in sorted(by_load.items())
    ]


def throughput(found: Sequence[Rung]) -> Chart:
    """Tokens out a second against the load."""
    return _against_load(found, "output_tokens_per_s", "Tokens out a second", "tokens/s")


def goodput(found: Sequence[Rung]) -> Chart | None:
    """Requests within every limit a second, against the load; in an open loop beside what was asked for."""
    kept = [one for one in found if "goodput_per_s" in one.summary.rates]
    if not kept:
        return None
    chart = _against_load(kept, "goodput_per_s", "Goodput: requests a second within every limit", "requests/s",
                          [one.load for one in kept] if kept[0].summary.open_loop else [])  # fmt: skip
    if kept[0].summary.open_loop:
        top = min(chart.x.high, chart.y.high)
        chart.line([(0.0, 0.0), (top, top)], "c6 dash", "all that was asked for")
    return chart


def _against_load(found: Sequence[Rung], rate: str, title: str, unit: str, more: Sequence[float] = ()) -> Chart:
    label = "requests due a second" if found[0].summary.open_loop else "users"
    values = [one.summary.rates[rate] for one in found]
    heights = [value for one in values for value in (one.value, one.high) if value is not None]
    chart = Chart(title, linear(label, [one.load for one in found]), linear(unit, [*heights, *more]), 580, 360)
    names = fronts(found)
    for place, front in enumerate(names):
        css = f"c{place % 6 + 1}"
        own = [one for one in found if one.summary.run.front == front]
        for one in own:
            if sum(other.load == one.load for other in own) == 1:
                chart.whisker(one.load, one.summary.rates[rate].low, one.summary.rates[rate].high, css)
        points = [(one.load, one.summary.rates[rate].value) for one in own]
        hints = [f"{one.load_text}: {texts.cell(one.summary.rates[rate])} {unit}" for one in own]
        loads = sorted({one.load for one in own})
        chart.line([(load, float(median(y for x, y in points if x == load))) for load in loads], css,
                   front if len(names) > 1 else "")  # fmt: skip
        chart.dots(points, css, "", hints, 3.5)
    return chart
