"""From a run folder to its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conch_load.analysis import figures
from conch_load.analysis.columns import Booleans, Columns, columns
from conch_load.analysis.intervals import Floats, needed
from conch_load.analysis.slo import good, objectives
from conch_load.analysis.steady_state import Trend, mser5, trend
from conch_load.analysis.summary import RunPart, Summary, TrendFigure, Window, write_summary
from conch_load.records import (
    GENERATOR_FILE,
    REQUESTS_FILE,
    RUN_FILE,
    BadRecordError,
    GeneratorSample,
    RunInfo,
    read_generator,
    read_requests,
    read_run,
)
from conch_load.server_side import summary as server_side

MSER = "mser5"
NONE = "none"
_CHANGING = ("steps", "trace")  # arrivals that change by design: no steady state to look for
_LEAST_ACHIEVED = 0.95


def load(folder: Path) -> tuple[RunInfo, Columns, list[GeneratorSample]]:
    """Read a run folder.

    Raises:
        BadRecordError: it is not one, has no requests, or a line in it is not a record.
    """
    if not (folder / RUN_FILE).is_file():
        raise BadRecordError(f"{folder}: not a run folder: there is no {RUN_FILE} in it")
    run = read_run(folder)
    if not (folder / REQUESTS_FILE).is_file():
        raise BadRecordError(f"{folder}: there is no {REQUESTS_FILE}: nothing was measured")
    found = columns(read_requests(folder))
    if not len(found):
        raise BadRecordError(f"{folder / REQUESTS_FILE}: no requests in it: nothing was measured")
    samples = list(read_generator(folder)) if (folder / GENERATOR_FILE).is_file() else []
    return run, found, samples


def summarize(folder: Path, warm_up: str | float = MSER, slo_ms: Mapping[str, float] | None = None) -> Summary:
    """Work out every figure of a run and write ``summary.json``.

    Args:
        folder: the run folder.
        warm_up: ``mser5``, ``none`` (cut nothing but what was sent as warm-up), or seconds to cut from the run's start.
        slo_ms: limits in the place of the run's own.

    Raises:
        BadRecordError: see load.
        UnknownObjectiveError: a limit that does not exist.
    """
    run, found, samples = load(folder)
    summary = make_summary(run, found, samples, warm_up, slo_ms)
    summary = summary.model_copy(update={"server": _server(folder, summary.window)})
    write_summary(folder, summary)
    return summary


def make_summary(
    run: RunInfo, found: Columns, samples: list[GeneratorSample], warm_up: str | float = MSER,
    slo_ms: Mapping[str, float] | None = None,
) -> Summary:  # fmt: skip
    """The same from what a run folder holds, without the server's side and without writing."""
    limits = dict(run.slo_ms if slo_ms is None else slo_ms)
    wanted = objectives(limits)
    window, measured, before = find_window(run, found, warm_up)
    extra = [one.percentile for one in wanted if one.percentile is not None]
    metrics = figures.metrics(found, measured, extra)
    series = {name: figure for name, figure in _series(found, measured).items() if len(figure)}
    changing = run.arrivals.get("kind") in _CHANGING
    trends = {} if changing else {name: _trend(trend(figure)) for name, figure in series.items()}
    summary = Summary(
        schema_version=1,
        run=RunPart(**{name: getattr(run, name) for name in RunPart.model_fields if name != "slo_ms"}, slo_ms=limits),
        valid=True, invalid=[], warnings=[], window=window, stationarity=trends,
        counts=figures.counts(found, measured, before), metrics=metrics, stalls=figures.stalls(found, measured),
        rates=figures.rates(found, measured, window, good(found, wanted) if wanted else None),
        slo=figures.slo(found, measured, wanted), little=figures.little(found, measured, window, samples),
        generator=figures.generator(figures.within(samples, window)), checks=dict(run.checks), server=None,
    )  # fmt: skip
    invalid = [*run.invalid, *([] if summary.counts.succeeded else ["no request of the measured part succeeded"])]
    checks = [one for one in run.checks.values() if isinstance(one, Mapping)]
    told = [str(one) for check in checks for one in check.get("warnings", ())]
    warnings = [*told, *_warnings(summary)]
    return summary.model_copy(update={"invalid": invalid, "valid": not invalid, "warnings": warnings})


def find_window(run: RunInfo, found: Columns, warm_up: str | float) -> tuple[Window, Booleans, Booleans]:
    """The measured part: (window, which requests are in it, which came before).

    Raises:
        BadRecordError: nothing is left.
    """
    ends = np.concatenate([found.final_s, found.last_s, found.sent_s])
    end_s = min(run.warm_up_s + run.duration_s, float(np.nanmax(ends)))
    candidates = ~found.warm_up & (found.start_s >= run.warm_up_s) & (found.start_s < end_s)
    start_s, rule, reached_half = run.warm_up_s, f"{run.warm_up_s:g} s sent as warm-up", False
    if isinstance(warm_up, (int, float)):
        start_s, rule = max(start_s, float(warm_up)), f"the first {warm_up:g} s, as told"
    elif warm_up == MSER and run.arrivals.get("kind") in _CHANGING:
        rule += "; arrivals change by design, so MSER-5 is not used"
    elif warm_up == MSER:
        cut_s, reached_half = _mser_cut(found, candidates)
        start_s = max(start_s, cut_s)
        rule += ", then MSER-5 on ranks of TTFT and TPOT"
    elif warm_up != NONE:
        raise BadRecordError(f"warm-up must be {MSER}, {NONE} or a number of seconds, got {warm_up!r}")
    measured = candidates & (found.start_s >= start_s)
    if not measured.any() or end_s <= start_s:
        raise BadRecordError(
            f"no request is left to measure: the warm-up ends at {start_s:g} s, the run at {end_s:g} s"
        )
    cut = candidates & ~measured
    ttft = np.fmax(found.ttft_ms, np.nan_to_num(found.ttft_corrected_ms))[cut & found.ok]
    highest = float(np.nanmax(ttft)) if len(ttft) and not np.isnan(ttft).all() else None
    window = Window(
        start_s=start_s, end_s=end_s, length_s=end_s - start_s, rule=rule, cut_requests=int(cut.sum()),
        reached_half=reached_half, cut_highest_ttft_ms=highest,
    )  # fmt: skip
    return window, measured, ~measured & (found.start_s < start_s)


def _series(found: Columns, chosen: Booleans) -> dict[str, Floats]:
    """What must stand still: TTFT and TPOT, end to end where neither is measured."""
    kept = chosen & found.ok
    ttft = np.where(found.scheduled, found.ttft_corrected_ms, found.ttft_ms)
    series = {"ttft_ms": ttft[kept], "tpot_ms": found.tpot_ms[kept]}
    series = {name: values[~np.isnan(values)] for name, values in series.items()}
    if not any(len(values) for values in series.values()):
        series = {"e2e_ms": found.e2e_ms[kept]}
    return series


def _mser_cut(found: Columns, candidates: Booleans) -> tuple[float, bool]:
    """(when the steady state begins, whether the cut reached half of the run)."""
    start_s, reached_half = 0.0, False
    for name in _series(found, candidates):
        values = np.where(found.scheduled, found.ttft_corrected_ms, found.ttft_ms) if name == "ttft_ms" else getattr(
            found, name
        )
        kept = candidates & found.ok & ~np.isnan(values)
        cut = mser5(values[kept])
        reached_half |= cut.reached_half
        if cut.count:
            start_s = max(start_s, float(found.start_s[kept][cut.count]))
    return start_s, reached_half


def _trend(found: Trend) -> TrendFigure:
    return TrendFigure(p_value=found.p_value, change=found.change, drifts=found.drifts)


def _warnings(summary: Summary) -> list[str]:
    """What whoever reads the figures must know."""
    found = []
    counts = summary.counts
    if summary.window.reached_half:
        found.append("no steady state: the warm-up would be half of the run or more (MSER-5), so nothing was cut")
    if after_end := summary.run.workload.get("left_out_after_end"):
        found.append(
            f"the trace goes on after the run's end: {after_end} of its {summary.run.workload.get('entries')} requests "
            "were not sent; a longer --duration-s or a higher --speed has them in"
        )
    drifting = [name for name, one in summary.stationarity.items() if one.drifts]
    for name in drifting:
        change = summary.stationarity[name].change
        assert change is not None
        found.append(f"{name} does not stand still: {change:+.0%} from the first third of the window to the last")
    offered, completed = summary.rates["offered_per_s"].value, summary.rates["completed_per_s"].value
    if summary.open_loop and completed < _LEAST_ACHIEVED * offered:
        found.append(
            f"{completed:.3g} requests/s completed of {offered:.3g} due: the server did not keep up, or requests "
            "failed; what is waiting grows with the length of the run"
        )
    if counts.failed:
        found.append(f"{counts.failed} of {counts.measured} requests failed ({counts.failed / counts.measured:.1%})")
    for kind in ("output", "prompt"):
        differ, compared = getattr(counts, f"{kind}_tokens_differ"), getattr(counts, f"{kind}_tokens_compared")
        if differ and "counts" not in summary.checks:  # that check knows which differences a text may have
            found.append(f"{kind} tokens: the server's count is not the tokenizer's in {differ} of {compared} requests")
    found += _thin(summary)
    if summary.little.consistent is False:
        assert summary.little.sampled_in_flight is not None
        found.append(
            f"Little's law: the generator saw {summary.little.sampled_in_flight:.1f} requests in flight, their records "
            f"say {summary.little.recorded_in_flight:.1f}"
        )
    return found


def _thin(summary: Summary) -> list[str]:
    """Percentiles that were asked for and cannot be given."""
    found = []
    for one in summary.slo.objectives:
        if one.metric not in summary.metrics:
            found.append(f"{one.name}: no request has this figure, so every one counts as late")
            continue
        if one.percentile is None:
            continue
        if one.requests < needed(one.percentile):
            found.append(
                f"{one.name}: {one.requests} requests are too few for p{one.percentile:g}, which needs "
                f"{needed(one.percentile)}"
            )
        if one.outcome == "undecided":
            found.append(
                f"{one.name}: undecided: with {one.late} late it takes {one.needs:,} requests to show that it holds; "
                f"there were {one.requests:,}"
            )
    return found


def _server(folder: Path, window: Window) -> dict[str, Any] | None:
    """The server's side of the same window, where it was recorded; without what is for plots alone."""
    told = server_side.summarize(folder, round(window.start_s * 1e9), round(window.end_s * 1e9))
    return None if told is None else {name: value for name, value in told.items() if name != "timeline"}
