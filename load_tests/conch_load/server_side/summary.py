"""What a report shows of the server's side of a run.

Everything is over the samples nearest around the window, whose times stand beside. Counters are of requests that ended
in it, so a request that was under way at its edges counts where it ended. What the server does not tell is listed in
``missing``; it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conch_load.records import SERVER_FILE, read_run
from conch_load.server_side.histogram import Bound, Histogram
from conch_load.server_side.names import (
    ENGINES,
    GPU_MEAN,
    METRICS,
    METRICS_OF_A_MODEL,
    STATISTICS,
    TRITON_GAUGES,
    Engine,
    Series,
)
from conch_load.server_side.samples import Growth, Look, Recording, Reset, growth, read, window

_FOREVER_NS = 1 << 62
QUANTILES = (0.5, 0.95, 0.99)
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


def summarize(folder: Path, begin_ns: int | None = None, end_ns: int | None = None) -> dict[str, Any] | None:
    """The server's side of a run folder; None if nothing was sampled.

    Args:
        folder: of the run.
        begin_ns, end_ns: of the window, since the run's start; without them, everything that was sampled.

    Raises:
        BadRecordError: ``server.jsonl`` or ``run.json`` is not what it should be.
    """
    if not (folder / SERVER_FILE).is_file():
        return None
    recording = read(folder, read_run(folder).started_unix_ns)
    return of_recording(recording, begin_ns, end_ns)


def of_recording(recording: Recording, begin_ns: int | None = None, end_ns: int | None = None) -> dict[str, Any]:
    """The same from samples."""
    begin, end = (-_FOREVER_NS if begin_ns is None else begin_ns), (_FOREVER_NS if end_ns is None else end_ns)
    looks = window(recording.looks, begin, end)
    metrics, statistics = (growth(recording, looks, half) for half in (METRICS, STATISTICS))
    missing = _unreachable(recording, looks)
    engine = _find_engine(recording, looks)
    told: dict[str, Any] = {
        "window": {
            "begin_s": looks[0].at_ns / 1e9 if looks else None,
            "end_s": looks[-1].at_ns / 1e9 if looks else None,
            "samples": len(looks),
            "highest_took_ms": max((one.took_ms for one in looks), default=None),
        },
        "engine": None if engine is None else engine.name,
        "gauges": _gauges(recording, looks, engine, missing),
        "counters": _counters(recording, metrics, engine, missing),
        "times": _histograms(recording, metrics, engine, missing),
        "models": _models(recording, statistics, metrics, missing),
        "timeline": _timeline(recording, looks, engine),
        "resets": _resets(recording, [one for half in (metrics, statistics) if half for one in half.resets]),
        "missing": missing,
    }  # fmt: skip
    return told


def _resets(recording: Recording, found: list[Reset]) -> list[dict[str, Any]]:
    """One entry for each sample in which counters fell: a server that starts again has hundreds of them."""
    told = []
    for at_ns in sorted({one.at_ns for one in found}):
        fell = [one.series for one in found if one.at_ns == at_ns]
        names = sorted({recording.sample(key).name for key in fell})
        series = fell[0] if len(fell) == 1 else f"{len(fell)} counters, such as {fell[0]}"
        told.append({"at_s": at_ns / 1e9, "series": series, "count": len(fell), "names": names})
    return told


def _unreachable(recording: Recording, looks: list[Look]) -> list[str]:
    missing = []
    for half, url in ((METRICS, "metrics_url"), (STATISTICS, "statistics_url")):
        if not recording.sources.get(url):
            missing.append(f"{half.replace('_', ' ')}: no address was given")
        failed = [one.errors[half] for one in looks if half in one.errors]
        if failed:
            missing.append(f"{half.replace('_', ' ')} in {len(failed)} of {len(looks)} samples: {failed[0]}")
    if recording.error:
        missing.append(f"which models {recording.entry} is made of: {recording.error}")
    return missing


def _find_engine(recording: Recording, looks: list[Look]) -> Engine | None:
    names = {recording.sample(key).name for one in looks[-1:] for key in one.values}
    return next((one for one in ENGINES if any(gauge.name in names for gauge in one.gauges.values())), None)


def _matching(recording: Recording, keys: Iterable[str], wanted: Series, suffix: str = "") -> list[str]:
    found = []
    for key in keys:
        sample = recording.sample(key)
        if sample.name == wanted.name + suffix and wanted.labels.items() <= sample.labels.items():
            found.append(key)
    return found


def _gauge(recording: Recording, look: Look, wanted: Series, mean: bool = False) -> float | None:
    values = [look.values[key] for key in _matching(recording, look.values, wanted)]
    if not values:
        return None
    return sum(values) * wanted.scale / (len(values) if mean else 1)


def _timeline(recording: Recording, looks: list[Look], engine: Engine | None) -> list[dict[str, Any]]:
    """For plots: gauges at each sample, null where a sample has them not."""
    if engine is None:
        return []
    had = [one for one in looks if METRICS not in one.errors]
    return [
        {"at_s": one.at_ns / 1e9, **{name: _gauge(recording, one, series) for name, series in engine.gauges.items()}}
        for one in had
    ]


def _gauges(
    recording: Recording, looks: list[Look], engine: Engine | None, missing: list[str]
) -> dict[str, dict[str, float]]:
    """Mean over the samples and highest sample; between samples nobody looked."""
    had = [one for one in looks if METRICS not in one.errors]
    wanted = {**(engine.gauges if engine else {}), **TRITON_GAUGES}
    if engine is None and had:
        missing.append("an engine's metrics: none of " + ", ".join(one.name for one in ENGINES) + " is there")
    found = {}
    absent = []
    for name, series in wanted.items():
        values = [_gauge(recording, one, series, name in GPU_MEAN) for one in had]
        told = [value for value in values if value is not None]
        if told:
            found[name] = {"mean": sum(told) / len(told), "highest": max(told), "last": told[-1]}
        elif had:
            absent.append(f"{name} ({series.name})")
    missing += [f"not in the metrics: {', '.join(absent)}"] if absent else []
    return found


def _counters(
    recording: Recording, metrics: Growth | None, engine: Engine | None, missing: list[str]
) -> dict[str, float]:
    if metrics is None or engine is None:
        return {}
    found: dict[str, float] = {}
    for name, series in engine.counters.items():
        keys = _matching(recording, metrics.by, series)
        if keys:
            found[name] = sum(metrics.by[key] for key in keys)
            if name.endswith("_tokens") and metrics.seconds:
                found[f"{name}_per_s"] = found[name] / metrics.seconds
        else:
            missing.append(f"{name}: {series.name} is not there")
    if found.get("prefix_queries"):
        found["prefix_hit_share"] = found.get("prefix_hits", 0.0) / found["prefix_queries"]
    return found


def _histograms(
    recording: Recording, metrics: Growth | None, engine: Engine | None, missing: list[str]
) -> dict[str, dict[str, Any]]:
    """Times and sizes: number, mean (exact), and quantiles as far as buckets tell."""
    if metrics is None or engine is None:
        return {}
    found = {}
    for name, series in engine.histograms.items():
        one = _histogram(recording, metrics.by, series)
        if one is None:
            missing.append(f"{name}: {series.name} is not there")
            continue
        quantiles = {f"p{100 * q:g}": _scaled(one.quantile(q), series.scale) for q in QUANTILES}
        mean = None if one.mean is None else one.mean * series.scale
        found[name] = {"count": one.count, "mean": mean, "sum": one.total * series.scale, **quantiles}
    return found


def _histogram(recording: Recording, by: Mapping[str, float], series: Series) -> Histogram | None:
    parts = {suffix: _matching(recording, by, series, suffix) for suffix in ("_bucket", "_sum", "_count")}
    if not parts["_sum"] or not parts["_count"]:
        return None
    buckets: dict[float, float] = {}
    for key in parts["_bucket"]:
        bound = float(recording.sample(key).labels["le"])
        buckets[bound] = buckets.get(bound, 0.0) + by[key]
    return Histogram(buckets, sum(by[key] for key in parts["_sum"]), sum(by[key] for key in parts["_count"]))


def _scaled(bound: Bound | None, scale: float) -> dict[str, float | None] | None:
    if bound is None:
        return None
    value, high = (None if one is None else one * scale for one in (bound.value, bound.high))
    return {"value": value, "low": bound.low * scale, "high": high}


def _models(
    recording: Recording, statistics: Growth | None, metrics: Growth | None, missing: list[str]
) -> list[dict[str, Any]]:
    """Every model that did anything, the asked one first, then its steps: times of a call, and of a generation."""
    by, source = _by_model(recording, statistics, metrics)
    if not by:
        missing.append(f"times of each model: there are no statistics of Triton, or {recording.entry} was not asked")
        return []
    steps = list(recording.models)
    order = sorted(by, key=lambda name: (steps.index(name) if name in steps else len(steps), name))
    generations = by.get(recording.entry, {}).get(("success", "count"), 0.0)
    return [_model(recording, name, by[name], generations, source) for name in order if _did_anything(by[name])]


def _did_anything(one: Mapping[tuple[str, str], float]) -> bool:
    return any(one.get((what, "count"), 0.0) > 0 for what in ("success", "fail"))


def _model(
    recording: Recording, name: str, one: Mapping[tuple[str, str], float], generations: float, source: str
) -> dict[str, Any]:
    calls, executions = one.get(("success", "count"), 0.0), one.get(("execution", "count"), 0.0)
    config = recording.models.get(name)

    def each(what: str, over: float) -> float | None:
        return one[(what, "ns")] / 1e6 / over if over and (what, "ns") in one else None

    return {
        "model": name,
        "source": source,
        "step_of_entry": None if config is None else name != recording.entry,
        "decoupled": None if config is None else config["decoupled"],
        "calls": calls,
        "failed": one.get(("fail", "count"), 0.0),
        "executions": executions,
        "mean_batch": one.get(("inference", "count"), 0.0) / executions if executions else None,
        "call_ms": each("success", calls),
        **{f"{part}_ms": each(part, calls) for part in _PARTS},
        "calls_per_generation": calls / generations if generations else None,
        "per_generation_ms": each("success", generations),
    }


def _by_model(
    recording: Recording, statistics: Growth | None, metrics: Growth | None
) -> tuple[dict[str, dict[tuple[str, str], float]], str]:
    """Growth by model, all versions together: from the statistics, else from nv_ metrics; and from which."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    if statistics is not None and statistics.by:
        for key, value in statistics.by.items():
            labels = recording.sample(key).labels
            one = found.setdefault(labels["model"], {})
            place = (labels["what"], labels["unit"])
            one[place] = one.get(place, 0.0) + value
        return found, "statistics"
    for key, value in metrics.by.items() if metrics else ():
        sample = recording.sample(key)
        if sample.name in METRICS_OF_A_MODEL:
            what, unit, scale = METRICS_OF_A_MODEL[sample.name]
            one = found.setdefault(sample.labels["model"], {})
            one[(what, unit)] = one.get((what, unit), 0.0) + value * scale
    return found, "metrics"
