"""Write Grafana's dashboard from src/conch/metric_table.py.

A test checks that the file is what this script writes, another one that a real server has every metric in it.

    python build_scripts/write_dashboard.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conch import metric_table as metrics
from conch.metric_table import FAILED, Kind, MetricSpec

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docker" / "grafana" / "dashboards" / "conch.json"

_WIDTH = 24  # of Grafana's grid
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_HERE = 'model=~"$model", instance=~"$instance"'  # of the engine's series
_TRITON = 'instance=~"$instance"'  # of Triton's: there the label model is a stage
_WINDOW = "[$__rate_interval]"
# Of Triton's backend for compiled engines, which tells the engine's process nothing of its cache.
_TRTLLM_KV_USAGE = f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="fraction", {_TRITON}}}'


@dataclass(frozen=True)
class Query:
    """One line of a panel.

    Attributes:
        expr: PromQL.
        legend: what Grafana writes beside it; labels in {{ }}.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title, doc: shown; the doc behind the little i.
        queries: its lines.
        unit: Grafana's name of it.
        width, height: on Grafana's grid, which is 24 wide.
        kind: Grafana's panel type.
        stacked: lines one upon the other.
        share: a value in [0, 1]: the axis goes that far.
        limits: value -> colour, from the lowest; of numbers that are good or bad.
    """

    title: str
    doc: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    kind: str = "timeseries"
    stacked: bool = False
    share: bool = False
    limits: tuple[tuple[float, str], ...] = ()


def _summed(metric: MetricSpec, by: str = "model") -> str:
    """A gauge now, or a counter per second; without the label pid."""
    what = f"{metric.name}{{{_HERE}}}"
    return f"sum by ({by}) ({what if metric.kind is Kind.GAUGE else f'rate({what}{_WINDOW})'})"


def _share(part: str, whole: str) -> str:
    """A share of two rates; nothing where there was nothing, which would be 0 / 0."""
    return f"{part} / ({whole} > 0)"


def _quantile(metric: MetricSpec, quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by (model, le) (rate({metric.name}_bucket{{{_HERE}}}{_WINDOW})))"


def _mean(metric: MetricSpec) -> str:
    total, count = (f"sum by (model) (rate({metric.name}_{end}{{{_HERE}}}{_WINDOW}))" for end in ("sum", "count"))
    return _share(total, count)


def _quantiles(title: str, metric: MetricSpec, unit: str, *quantiles: float) -> Panel:
    queries = tuple(Query(_quantile(metric, q), f"{{{{model}}}} p{q * 100:g}") for q in quantiles)
    return Panel(title, metric.doc, queries, unit)


def _one(title: str, metric: MetricSpec, unit: str = "short") -> Panel:
    return Panel(title, metric.doc, (Query(_summed(metric), "{{model}}"),), unit)


def _number(title: str, doc: str, expr: str, unit: str = "short", *limits: tuple[float, str]) -> Panel:
    return Panel(title, doc, (Query(expr, "{{model}}"),), unit, width=4, height=4, kind="stat", limits=limits)


_HOW, _CODE = metrics.REQUESTS.label, metrics.ERRORS.label
_FAILED_ROWS = f'sum by (model) (rate({metrics.REQUESTS.name}{{{_HOW}="{FAILED}", {_HERE}}}{_WINDOW}))'
_FAILED_SHARE = _share(_FAILED_ROWS, _summed(metrics.REQUESTS))
_FULL = ((0, "green"), (0.8, "orange"), (0.95, "red"))

NOW = (
    _number("Servers up", "Servers that answer Prometheus.", 'sum(up{job="conch", instance=~"$instance"})', "short",
            (0, "red"), (1, "green")),
    _number("Running", metrics.RUNNING.doc, _summed(metrics.RUNNING)),
    _number("Waiting", metrics.WAITING.doc, _summed(metrics.WAITING), "short", (0, "green"), (1, "orange")),
    _number("KV cache", metrics.KV_USAGE.doc, f"max by (model) ({metrics.KV_USAGE.name}{{{_HERE}}})", "percentunit",
            *_FULL),
    _number("Tokens per second", metrics.OUTPUT_TOKENS.doc, _summed(metrics.OUTPUT_TOKENS)),
    _number("Failed", "Share of rows that ended with an error.", _FAILED_SHARE, "percentunit",
            (0, "green"), (0.01, "orange"), (0.05, "red")),
)  # fmt: skip
LATENCY = (
    _quantiles("Time to first token", metrics.TTFT, "s", 0.5, 0.95, 0.99),
    _quantiles("Time between tokens", metrics.INTER_TOKEN, "s", 0.5, 0.95, 0.99),
    _quantiles("Whole request", metrics.E2E_TIME, "s", 0.5, 0.95, 0.99),
    Panel(
        "Where the time goes", "Mean of a row: in the line, until its first token, from there to its last.",
        tuple(Query(_mean(metric), f"{{{{model}}}} {what}") for metric, what in (
            (metrics.QUEUE_TIME, "in the line"), (metrics.PREFILL_TIME, "prefill"), (metrics.DECODE_TIME, "decode"),
        )), "s", stacked=True,
    ),
    _quantiles("Time in the line", metrics.QUEUE_TIME, "s", 0.5, 0.95, 0.99),
    _one("Rows that wait", metrics.WAITING),
)  # fmt: skip
WORK = (
    Panel("Tokens per second", "Of prompts, and of answers.", (
        Query(_summed(metrics.PROMPT_TOKENS), "{{model}} prompt"),
        Query(_summed(metrics.OUTPUT_TOKENS), "{{model}} answer"),
    )),
    Panel("Rows that ended, per second", metrics.REQUESTS.doc, (
        Query(_summed(metrics.REQUESTS, f"model, {_HOW}"), f"{{{{model}}}} {{{{{_HOW}}}}}"),
    ), stacked=True),
    Panel("Errors per second", metrics.ERRORS.doc, (
        Query(f"{_summed(metrics.ERRORS, f'model, {_CODE}')} > 0", f"{{{{model}}}} {{{{{_CODE}}}}}"),
    )),
    _one("Rows in the engine", metrics.RUNNING),
    Panel("Rows in one step", metrics.BATCH_SIZE.doc, (
        Query(_mean(metrics.BATCH_SIZE), "{{model}} mean"), Query(_quantile(metrics.BATCH_SIZE, 0.95), "{{model}} p95"),
    )),
    Panel("Tokens of a row", "Medians of prompts and answers.", (
        Query(_quantile(metrics.REQUEST_PROMPT, 0.5), "{{model}} prompt"),
        Query(_quantile(metrics.REQUEST_OUTPUT, 0.5), "{{model}} answer"),
    )),
)  # fmt: skip
MEMORY = (
    Panel("KV cache in use", f"{metrics.KV_USAGE.doc} Of compiled engines the backend's count.", (
        Query(f"max by (model, instance) ({metrics.KV_USAGE.name}{{{_HERE}}})", "{{model}} {{instance}}"),
        Query(f"max by (model, instance) ({_TRTLLM_KV_USAGE})", "{{model}} {{instance}}"),
    ), "percentunit", share=True),
    Panel("Prompt tokens found in the prefix cache", "Share of prompt tokens that did not have to be computed.", (
        Query(_share(_summed(metrics.PREFIX_HITS), _summed(metrics.PREFIX_QUERIES)), "{{model}}"),
    ), "percentunit", share=True),
    Panel("Processors", "Of the whole machine, as Triton sees it.", (
        Query(f"nv_cpu_utilization{{{_TRITON}}}", "{{instance}}"),
    ), "percentunit", share=True),
)  # fmt: skip
STAGES = (
    Panel("Executions per second", "Of each model; a streamed request makes many of the detokenizer.", (
        Query(f"sum by (model) (rate(nv_inference_exec_count{{{_TRITON}}}{_WINDOW})) > 0", "{{model}}"),
    )),
    Panel("Refused or failed, per second", "With what was refused before it reached the engine.", (
        Query(f"sum by (model) (rate(nv_inference_request_failure{{{_TRITON}}}{_WINDOW})) > 0", "{{model}}"),
    )),
    Panel("Memory of the machine", "In use, of what there is.", (
        Query(f"nv_cpu_memory_used_bytes{{{_TRITON}}}", "{{instance}} used"),
        Query(f"nv_cpu_memory_total_bytes{{{_TRITON}}}", "{{instance}} total"),
    ), "bytes"),
)  # fmt: skip
GPUS = (  # tritonserver has these where it was built with DCGM and sees a GPU
    Panel("GPUs", "Share of the time that a GPU computes.", (
        Query(f"nv_gpu_utilization{{{_TRITON}}}", "{{instance}} {{gpu_uuid}}"),
    ), "percentunit", share=True),
    Panel("Memory of GPUs", "In use, of what there is.", (
        Query(f"nv_gpu_memory_used_bytes{{{_TRITON}}}", "{{gpu_uuid}} used"),
        Query(f"nv_gpu_memory_total_bytes{{{_TRITON}}}", "{{gpu_uuid}} total"),
    ), "bytes"),
    Panel("Power of GPUs", "What they draw.", (
        Query(f"nv_gpu_power_usage{{{_TRITON}}}", "{{instance}} {{gpu_uuid}}"),
    ), "watt"),
)  # fmt: skip
ROWS = (("Now", NOW), ("Latency", LATENCY), ("Work", WORK), ("Caches", MEMORY), ("Triton", STAGES), ("GPUs", GPUS))


def _target(query: Query, number: int) -> dict[str, object]:
    return {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query.expr, "legendFormat": query.legend}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, object]:
    colours = panel.limits or ((0, "green"),)
    steps = [{"color": colour, "value": value if i else None} for i, (value, colour) in enumerate(colours)]
    defaults: dict[str, object] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.share:
        defaults["max"] = 1
    if panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30}
    legend = {"displayMode": "list", "placement": "bottom"}
    options: dict[str, object] = {"legend": legend, "tooltip": {"mode": "multi"}}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.doc,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [_target(query, i) for i, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
    }


def _panels() -> list[dict[str, object]]:
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1}}
        )  # fmt: skip
        x, y = 0, y + 1
        for panel in row:
            if x + panel.width > _WIDTH:
                x, y = 0, y + panel.height
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x += panel.width
        y += row[-1].height
    return panels


def _variable(name: str, label: str, query: str) -> dict[str, object]:
    return {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "query": {"query": query, "refId": name},
        "refresh": 2, "multi": True, "includeAll": True, "allValue": ".*", "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def dashboard() -> str:
    """The dashboard, as JSON that Grafana's provisioning reads."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    series = metrics.RUNNING.name
    content = {
        "uid": "conch",
        "title": "Conch",
        "tags": ["conch"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,  # the crosshair is on all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                source,
                _variable("model", "Model", f"label_values({series}, model)"),
                _variable("instance", "Server", 'label_values(up{job="conch"}, instance)'),
            ]
        },
        "panels": _panels(),
    }
    return json.dumps(content, indent=1) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file, or with --check say whether it is as it would be written; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write Grafana's dashboard.", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the file is another")
    if not parser.parse_args(argv).check:
        TARGET.write_text(dashboard(), encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == dashboard():
        return 0
    print(f"error: {TARGET.relative_to(ROOT)} is not what {Path(__file__).name} writes", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
