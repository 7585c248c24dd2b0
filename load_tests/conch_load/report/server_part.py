"""The part of the report on the server's side: where the time of a request went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from conch_load.analysis.summary import Summary
from conch_load.report.chart import stacked_bar
from conch_load.report.scales import short
from conch_load.report.texts import NONE, number

_STAGES = (("queue_ms", "waiting in the engine's queue", "c3"), ("prefill_ms", "prefill", "c1"),
           ("decode_ms", "decode", "c2"))  # fmt: skip
_MODEL_COLUMNS = (
    ("calls", "calls"), ("failed", "failed"), ("calls_per_generation", "calls per generation"),
    ("call_ms", "a call, ms"), ("queue_ms", "queue, ms"), ("compute_infer_ms", "compute, ms"),
    ("mean_batch", "batch"), ("per_generation_ms", "per generation, ms"),
)  # fmt: skip


def parts(summary: Summary) -> dict[str, Any] | None:
    """What the template shows; None where nothing was recorded."""
    told = summary.server
    if told is None:
        return None
    bar, note = _bar(summary, told.get("times", {}))
    window = told.get("window", {})
    source = f"{window.get('samples', 0)} samples of /metrics and of Triton's statistics"
    if window.get("samples"):
        source += f", from {window['begin_s']:.1f} to {window['end_s']:.1f} s"
    source += f"; engine: {told.get('engine') or 'unknown'}"
    return {
        "source": source, "bar": bar, "bar_note": note,
        "gauges": [(_words(name), _gauge(name, one["mean"]), _gauge(name, one["highest"]))
                   for name, one in told.get("gauges", {}).items()],
        "counters": [(_words(name), f"{value:.1%}" if name.endswith("_share") else short(value))
                     for name, value in told.get("counters", {}).items()],
        "times": [(_words(name), f"{one['count']:,.0f}", _figure(one["mean"]), _bucket(one["p50"]), _bucket(one["p99"]))
                  for name, one in told.get("times", {}).items()],
        "model_heads": [head for _, head in _MODEL_COLUMNS],
        "models": [(one["model"], *(_figure(one.get(key)) for key, _ in _MODEL_COLUMNS))
                   for one in told.get("models", ())],
        "missing": [*told.get("missing", ()),
                    *(f"{one['series']} began anew at {one['at_s']:.1f} s" for one in told.get("resets", ()))],
    }  # fmt: skip


def _bar(summary: Summary, times: Mapping[str, Any]) -> tuple[Markup | None, str]:
    """The mean request as one bar: the engine's stages, and what is left of the client's own time."""
    stages = [(name, times[key]["mean"], css) for key, name, css in _STAGES
              if key in times and times[key]["mean"] is not None]  # fmt: skip
    client = summary.metrics.get("e2e_ms")
    if not stages or client is None:
        return None, ""
    within = sum(size for _, size, _ in stages)
    rest = client.mean.value - within
    note = (
        f"Means: the client saw {number(client.mean.value)} ms from sending to the last token, the engine accounts for "
        f"{number(within)} ms. "
    )
    if rest < 0:
        note += "The engine's requests are not quite the client's (another window, or other clients): no rest is shown."
    else:
        stages.append(("the rest: client, network, Triton, tokenizer, detokenizer", rest, "c6"))
        note += "The rest is what the way there and back took, other stages of the ensemble among it."
    return Markup(stacked_bar("A mean request", stages, "ms")), note


def _words(name: str) -> str:
    return name.replace("_ms", ", ms").replace("_per_s", ", /s").replace("_share", ", share").replace("_", " ")


def _gauge(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith(("usage", "utilization")) else short(value)


def _figure(value: float | None) -> str:
    return NONE if value is None else short(value)


def _bucket(told: Mapping[str, float | None] | None) -> str:
    """As far as buckets tell: an estimate, and the bucket that it lies in."""
    if told is None:
        return NONE
    low, high, value = told["low"], told["high"], told["value"]
    if high is None or value is None:
        return f"> {short(low or 0.0)}"
    return f"{short(value)} ({short(low or 0.0)}–{short(high)})"
