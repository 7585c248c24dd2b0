"""``report.html``: one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from conch_load.analysis.columns import Booleans, Columns
from conch_load.analysis.definitions import DEFINITIONS, MLPERF_ANCHORS, RULES, TOOLS
from conch_load.analysis.summary import Summary
from conch_load.records import GeneratorSample
from conch_load.report import ladder, ladder_plots, run_plots, server_part, texts


def environment() -> Environment:
    """Templates of this package; everything is escaped that is not markup of ours."""
    made = Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_source), trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    made.globals.update(style=Markup(_source("style.css")), script=Markup(_source("hints.js")), texts=texts)
    return made


def _source(name: str) -> str:
    return (files("conch_load.report") / "templates" / name).read_text(encoding="utf-8")


def render_run(summary: Summary, found: Columns, measured: Booleans, samples: Sequence[GeneratorSample],
               server_timeline: Sequence[Mapping[str, Any]] = ()) -> str:  # fmt: skip
    """The page of one run.

    Args:
        server_timeline: the server's gauges: ``at_s``, ``waiting``, ``running``, ...; empty where not recorded.
    """
    return environment().get_template("run.html.jinja").render(
        summary=summary, tiles=tiles(summary), subtitle=subtitle(summary),
        timeline=[Markup(one) for one in run_plots.timeline(found, summary, samples, server_timeline)],
        distributions=[Markup(one) for one in run_plots.distributions(found, summary, measured)],
        heads=texts.metric_heads(summary), rows=texts.metric_rows(summary), rates=texts.rate_rows(summary),
        objectives=texts.objective_rows(summary), omission=texts.omission(summary), server=server_part.parts(summary),
        config=json.dumps(_config(summary), indent=2, ensure_ascii=False), **definitions(),
    )  # fmt: skip


def render_ladder(found: Sequence[ladder.Rung], title: str, remarks: Sequence[str] = ()) -> str:
    """The page of several runs.

    Args:
        remarks: what a search found, in sentences.
    """
    first = found[0].summary
    return environment().get_template("ladder.html.jinja").render(
        title=title, found=remarks, charts=ladder_plots.charts(found), heads=ladder.HEADS, rows=ladder.rows(found),
        subtitle=" · ".join((", ".join(ladder.fronts(found)), first.run.model, first.run.target,
                             texts.workload_text(first.run.workload), texts.started(first))),
        invalid=[(one.name, "; ".join(one.summary.invalid)) for one in found if not one.summary.valid],
        costs=ladder.front_costs(found), config=json.dumps(_config(first), indent=2, ensure_ascii=False),
        **definitions(),
    )  # fmt: skip


def definitions() -> dict[str, Any]:
    """What the part on definitions shows."""
    return {"definitions": list(DEFINITIONS.values()), "rules": RULES, "tools": TOOLS, "anchors": MLPERF_ANCHORS}


def subtitle(summary: Summary) -> str:
    """What was run, in one line."""
    run = summary.run
    target = run.target if run.model in run.target else f"{run.target} {run.model}"
    return " · ".join((
        run.front, target, texts.load_text(run.arrivals), texts.workload_text(run.workload), texts.started(summary),
    ))  # fmt: skip


def tiles(summary: Summary) -> list[dict[str, str]]:
    """The figures at the top: label, text, interval, note, state."""
    asked = f"{texts.number(summary.rates['offered_per_s'].value)} {'due' if summary.open_loop else 'sent'}"
    found = [_tile("Tokens out a second", texts.cell(summary.rates["output_tokens_per_s"])),
             _tile("Requests a second", texts.cell(summary.rates["completed_per_s"]), asked)]  # fmt: skip
    for metric, label in (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "End to end")):
        key = f"{metric}_corrected_ms" if f"{metric}_corrected_ms" in summary.metrics else f"{metric}_ms"
        figure = summary.metrics.get(key)
        if figure is None or (metric == "e2e" and len(found) > 3):
            continue
        high = next((name for name in ("p99", "p95", "p90") if figure.percentiles[name].value is not None), None)
        clock = " from when due" if "corrected" in key else ""
        found.append(_tile(f"{label} p50, ms", texts.cell(figure.percentiles["p50"]), clock.strip()))
        if high:
            found.append(_tile(f"{label} {high}, ms", texts.cell(figure.percentiles[high]), clock.strip()))
    if "goodput_per_s" in summary.rates and summary.slo.good_share is not None:
        found.append(_tile("Goodput, requests a second", texts.cell(summary.rates["goodput_per_s"]),
                           f"{summary.slo.good_share.value:.1%} within every limit"))  # fmt: skip
    failed = summary.counts.failed
    found.append({"label": "Failed", "text": f"{failed:,}", "interval": "", "note": f"of {summary.counts.measured:,}",
                  "state": "bad" if failed else "good"})  # fmt: skip
    return found


def _tile(label: str, cell: texts.Cell, note: str = "") -> dict[str, str]:
    return {"label": label, "text": cell.text, "interval": cell.interval, "note": note, "state": ""}


def _config(summary: Summary) -> dict[str, Any]:
    return summary.run.model_dump()
