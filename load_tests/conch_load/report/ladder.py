"""Several runs together: latency against throughput, goodput against rate, and what one front costs over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from markupsafe import Markup

from conch_load.analysis.comparison import KEYS, Change
from conch_load.analysis.comparison import load_of as same_load
from conch_load.analysis.repeated import compare_sides
from conch_load.analysis.summary import PercentileFigure, Summary, read_summary
from conch_load.records import REPORT_HTML_FILE, SUMMARY_FILE, BadRecordError
from conch_load.report import texts
from conch_load.report.chart import Chart
from conch_load.report.comparison_text import change_texts
from conch_load.report.scales import linear, logarithmic, short

_ONE_FRONT = (("p50", "c1"), ("p95", "c3"), ("p99", "c4"))
_MORE_FRONTS = (("p50", ""), ("p99", " dash"))
_FRONT_KEYS = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "e2e_p50_ms", "output_tokens_per_s")


@dataclass(frozen=True)
class Rung:
    """One run of several.

    Attributes:
        name: its folder, as seen from the parent's.
        load: users of a closed loop, or requests a second.
    """

    name: str
    load: float
    summary: Summary

    @property
    def load_text(self) -> str:
        """``16 users`` or ``4/s``."""
        if self.summary.open_loop:
            return f"{self.load:g}/s"
        return f"{self.load:g} user{'' if self.load == 1 else 's'}"


def rungs(parent: Path) -> list[Rung]:
    """All runs below a folder that have a summary, by load; those of a trace or of steps have no load and go last.

    Raises:
        BadRecordError: a summary is not one.
    """
    found = []
    for path in sorted(parent.rglob(SUMMARY_FILE)):
        folder = path.parent
        if folder == parent:
            continue
        summary = read_summary(folder)
        found.append(Rung(str(folder.relative_to(parent)), load_of(summary), summary))
    return sorted(found, key=lambda one: (one.summary.open_loop, one.load, one.name))


def load_of(summary: Summary) -> float:
    """Users, or requests a second: what was asked for, else what came."""
    told = summary.run.arrivals.get("rate_per_s" if summary.open_loop else "users")
    return float(told) if isinstance(told, (int, float)) else summary.rates["offered_per_s"].value


def check_rungs(found: Sequence[Rung], parent: Path) -> None:
    """Runs that can stand in one plot.

    Raises:
        BadRecordError: there are none, or of different workloads, or both of open and closed loops.
    """
    if not found:
        raise BadRecordError(f"{parent}: neither a run folder nor one of runs: there is no {SUMMARY_FILE} below")
    first = found[0].summary
    for one in found:
        if same_load(one.summary.run.workload) != same_load(first.run.workload):
            raise BadRecordError(f"{parent}: {found[0].name} and {one.name} have different workloads")
        if one.summary.open_loop != first.open_loop:
            raise BadRecordError(f"{parent}: {found[0].name} and {one.name} are of an open and of a closed loop")


def key_of(summary: Summary, metric: str) -> str:
    """From when due where there is a schedule."""
    corrected = f"{metric}_corrected_ms"
    return corrected if corrected in summary.metrics else f"{metric}_ms"


def fronts(found: Sequence[Rung]) -> list[str]:
    """Which there are."""
    return sorted({one.summary.run.front for one in found})


def charts(found: Sequence[Rung]) -> list[Markup]:
    """All charts of a ladder."""
    made = [latency(found, "ttft", "TTFT"), latency(found, "tpot", "TPOT"), throughput(found), goodput(found)]
    return [Markup(chart.render()) for chart in made if chart is not None]


def latency(found: Sequence[Rung], metric: str, label: str) -> Chart | None:
    """Percentiles of a latency against tokens out a second, a point a load."""
    kept = [one for one in found if key_of(one.summary, metric) in one.summary.metrics]
    if not kept:
        return None
    names = fronts(kept)
    lines = [
        ([one for one in kept if one.summary.run.front == front], which,
         css if len(names) == 1 else f"c{place % 6 + 1}{css}", which if len(names) == 1 else f"{front} {which}")
        for place, front in enumerate(names) for which, css in (_ONE_FRONT if len(names) == 1 else _MORE_FRONTS)
    ]  # fmt: skip
    points = {(id(one), which): _figure(one, metric, which) for own, which, _, _ in lines for one in own}
    heights = [value.value for value in points.values() if value is not None and value.value is not None]
    if not heights:
        return None
    objectives = [one for rung in kept for one in rung.summary.slo.objectives]
    limits = sorted({one.limit_ms for one in objectives if one.metric == f"{metric}_ms"})
    across = linear("tokens out a second", [one.summary.rates["output_tokens_per_s"].value for one in kept])
    up = logarithmic(f"{label}, ms", [*heights, *limits, min(heights) / 1.2])  # room for the labels below the lowest
    chart = Chart(f"{label} against throughput", across, up, 580, 360)
    for own, which, css, legend in lines:
        _line(chart, own, [points[id(one), which] for one in own], css, legend)
    if lines:
        for rung, height in _medians(lines[0][0], [points[id(one), lines[0][1]] for one in lines[0][0]]):
            chart.label((rung.summary.rates["output_tokens_per_s"].value, height), rung.load_text)
    for limit in limits:
        chart.rule(limit, f"SLO {limit:g}")
    return chart


def _figure(rung: Rung, metric: str, which: str) -> PercentileFigure | None:
    return rung.summary.metrics[key_of(rung.summary, metric)].percentiles.get(which)


def _line(chart: Chart, own: Sequence[Rung], figures: Sequence[PercentileFigure | None], css: str, legend: str) -> None:
    """Each run a dot with its interval; the line goes through the medians of each load."""
    color = css.split()[0]
    points, hints = [], []
    for rung, figure in zip(own, figures, strict=True):
        if figure is None or figure.value is None:
            continue
        x = rung.summary.rates["output_tokens_per_s"].value
        chart.whisker(x, figure.low, figure.high, color)
        points.append((x, figure.value))
        hints.append(f"{rung.load_text}: {legend} {texts.cell(figure)} ms at {short(x)} tokens/s")
    middle = [(rung.summary.rates["output_tokens_per_s"].value, height) for rung, height in _medians(own, figures)]
    chart.line(middle, css, legend)
    chart.dots(points, color, "", hints, 3.5)


def _medians(own: Sequence[Rung], figures: Sequence[PercentileFigure | None]) -> list[tuple[Rung, float]]:
    """One point a load: the run in the middle of its repeats, and the median of the figure."""
    by_load: dict[float, list[tuple[float, Rung]]] = {}
    for rung, figure in zip(own, figures, strict=True):
        if figure is not None and figure.value is not None:
            by_load.setdefault(rung.load, []).append((figure.value, rung))
    found = []
    for load in sorted(by_load):
        values = sorted(by_load[load], key=lambda one: one[0])
        found.append((values[len(values) // 2][1], float(median(value for value, _ in values))))
    return found


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
            chart.whisker(one.load, one.summary.rates[rate].low, one.summary.rates[rate].high, css)
        points = [(one.load, one.summary.rates[rate].value) for one in own]
        hints = [f"{one.load_text}: {texts.cell(one.summary.rates[rate])} {unit}" for one in own]
        loads = sorted({one.load for one in own})
        chart.line([(load, float(median(y for x, y in points if x == load))) for load in loads], css,
                   front if len(names) > 1 else "")  # fmt: skip
        chart.dots(points, css, "", hints, 3.5)
    return chart


HEADS = ("run", "load", "tokens out /s", "requests /s", "TTFT p50, ms", "p95", "p99", "TPOT p50, ms", "p95", "p99",
         "within limits", "failed", "SLO")  # fmt: skip


def rows(found: Sequence[Rung]) -> list[list[texts.Cell]]:
    """The table: one row a run."""
    made = []
    for one in found:
        summary = one.summary
        share = summary.slo.good_share
        verdicts = [f"{row['name']} {row['outcome']}" for row in texts.objective_rows(summary)]
        cells = [texts.cell(summary.percentile(key_of(summary, metric), which))
                 for metric in ("ttft", "tpot") for which in (50, 95, 99)]  # fmt: skip
        made.append([
            texts.Cell(one.name + ("" if summary.valid else " (invalid)"), hint=f"{one.name}/{REPORT_HTML_FILE}"),
            texts.Cell(one.load_text),
            texts.cell(summary.rates["output_tokens_per_s"]), texts.cell(summary.rates["completed_per_s"]), *cells,
            texts.Cell(texts.NONE if share is None else f"{share.value:.1%}"),
            texts.Cell(f"{summary.counts.failed:,}"), texts.Cell("; ".join(verdicts) or texts.NONE),
        ])  # fmt: skip
    return made


def front_costs(found: Sequence[Rung]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """At each load that more than one front was run at: (what is compared, rows of changes)."""
    made = []
    for load in sorted({one.load for one in found}):
        by_front: dict[str, list[Summary]] = {}
        for one in found:
            if one.load == load:
                by_front.setdefault(one.summary.run.front, []).append(one.summary)
        (base, before), *others = sorted(by_front.items())
        text = next(one.load_text for one in found if one.load == load)
        for name, after in others:
            repeats = min(len(before), len(after))  # one run on each side, or several on each
            changes = compare_sides(before[:1], after[:1]) if repeats == 1 else compare_sides(before, after)
            kept = [one for key in KEYS if key in _FRONT_KEYS for one in changes if one.key == key]
            made.append((f"{name} beside {base}, {text}", [(*change_texts(one), _absolute(one)) for one in kept]))
    return made


def _absolute(change: Change) -> str:
    """What it costs in the figure's own unit."""
    if change.before is None or change.after is None:
        return texts.NONE
    moved = change.after.value - change.before.value
    return f"{'+' if moved >= 0 else '−'}{texts.number(abs(moved))} {'/s' if change.unit == '1/s' else change.unit}"


def markdown(found: Sequence[Rung], title: str) -> str:
    """The table, for a comment on a pull request."""
    first = found[0].summary
    lines = [f"## Load tests: {title}", "",
             f"{first.run.model} · {texts.workload_text(first.run.workload)} · {', '.join(fronts(found))}", "",
             "| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]  # fmt: skip
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows(found)]
    for heading, table in front_costs(found):
        lines += ["", f"**{heading}**", "", "| figure | before | after | change | 95 % interval | so | in all |",
                  "|---" * 7 + "|"]  # fmt: skip
        lines += ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([*lines, ""])
