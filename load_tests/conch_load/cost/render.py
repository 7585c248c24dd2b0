"""A cost report as text and as Markdown: inputs carry a number in brackets that says whose they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from conch_load.cost.figures import Figure
from conch_load.cost.report import UTILIZATIONS, CostReport, Line

_NONE = "-"
FORMULAS = (
    "$/h = price of a GPU × GPUs × (1 + overhead)",
    "$/1M = $/h ÷ (tokens/s × 3600 × utilization) × 10⁶",
    "break-even, tokens a day = 24 × $/h ÷ API's $/1M × 10⁶, if a replica makes as many in a day at that utilization",
    "pays above = the load from which self-hosting is cheaper at every load, whole replicas reckoned",
    "API's $/1M output tokens = output price + input tokens for each output token × input price",
    "API's $/1M total tokens = the same ÷ (1 + input tokens for each output token)",
)


class _Sources:
    """Numbers for the sources of inputs, in the order in which they come up."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, figure: Figure) -> str:
        """The number in brackets of an input; nothing for what was computed."""
        if not figure.is_input:
            return ""
        if figure.source not in self.texts:
            self.texts.append(figure.source)
        return f" [{self.texts.index(figure.source) + 1}]"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "never"
    if value == 0 or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 100 else f"{value:,.2f}" if value >= 0.1 else f"{value:.3g}"


def _cell(figure: Figure | None, sources: _Sources) -> str:
    if figure is None:
        return _NONE
    whole = figure.unit in ("GPUs", "replicas", "tokens/s") and (figure.value >= 10 or float(figure.value).is_integer())
    return (f"{figure.value:,.0f}" if whole else _number(figure.value)) + sources.mark(figure)


def _cost_table(report: CostReport, sources: _Sources) -> tuple[list[str], list[list[str]]]:
    planned = report.assumptions.utilization
    others = [one for one in UTILIZATIONS if one != planned]
    header = ["setup", "tokens/s", "GPUs", "$/GPU h", "$/h", f"$/1M at {planned:g}", *(f"at {one:g}" for one in others)]
    rows = []
    for line in report.lines:
        get = line.figures.get
        each = get("usd_per_gpu_hour") or get("usd_per_machine_hour")
        cells = [get("tokens_per_s"), get("gpus"), each, get("usd_per_hour"), get("usd_per_million")]
        cells += [get(f"usd_per_million_at_{one:g}") for one in others]
        rows.append([line.name, *(_cell(one, sources) for one in cells)])
    return header, rows


def _target_table(report: CostReport, sources: _Sources) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in report.lines if "target_tokens_per_s" in line.figures]
    names = ("target_replicas", "target_gpus", "target_usd_per_hour", "target_utilization", "target_usd_per_million")
    header = ["setup", "replicas", "GPUs", "$/h", "utilization", "$/1M"]
    return header, [[line.name, *(_cell(line.figures.get(name), sources) for name in names)] for line in lines]


def _break_even_table(report: CostReport, sources: _Sources) -> tuple[list[str], list[list[str]]]:
    header = ["setup", "beside", "API $/1M", "break-even, M tokens/day", "pays above, M tokens/day", "claim"]
    rows = []
    for line, one in report.comparisons:
        cells = [_cell(figure, sources) for figure in (one.api_usd_per_million, one.break_even, one.pays_above)]
        rows.append([line.name, one.api, *cells, "holds" if one.claim_holds else "does not hold"])
    return header, rows


def _target_of(lines: Sequence[Line]) -> str:
    targets = [line.figures["target_tokens_per_s"] for line in lines if "target_tokens_per_s" in line.figures]
    return f"{targets[0].value:,.0f}" if targets else ""


def _parts(report: CostReport) -> tuple[list[tuple[str, tuple[list[str], list[list[str]]]]], list[str], list[str]]:
    sources = _Sources()
    given = report.assumptions
    tables = [("What it costs", _cost_table(report, sources))]
    if target := _target_of(report.lines):
        tables.append((f"What {target} tokens/s take", _target_table(report, sources)))
    if report.comparisons:
        tables.append((f"Beside APIs, at utilization {given.utilization:g}", _break_even_table(report, sources)))
    inputs = [f"{name} = {figure.value:g} {figure.unit}: {figure.source}" for name, figure in given.figures().items()]
    inputs.append(f"tokens counted: {given.counted}; prices of APIs of {given.on}; GPU prices last checked "
                  f"{report.gpu_prices_checked}")  # fmt: skip
    inputs += [f"{one.name}: ${one.usd_in:g} in, ${one.usd_out:g} out per million tokens: {one.source}"
               for one in report.api_prices]  # fmt: skip
    return tables, inputs, sources.texts


def as_text(report: CostReport) -> str:
    """For a terminal."""
    tables, inputs, sources = _parts(report)
    out = []
    for title, (header, rows) in tables:
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        out.append(title)
        for row in (header, *rows):
            cells = [cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
            out.append("  " + "  ".join(cells).rstrip())
        out.append("")
    out += ["Inputs, beside those with a number in brackets", *(f"  {one}" for one in inputs), ""]
    out += ["Whose the numbered inputs are", *(f"  [{i}] {one}" for i, one in enumerate(sources, 1)), ""]
    out += ["Everything without a number is computed", *(f"  {one}" for one in FORMULAS), ""]
    out += [f"note: {one}" for one in report.notes]
    return "\n".join([*out, report.verdict()])


def as_markdown(report: CostReport) -> str:
    """For a page or a pull request."""
    tables, inputs, sources = _parts(report)
    out = []
    for title, (header, rows) in tables:
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
        out += [f"**{title}**", "", *("| " + " | ".join(row) + " |" for row in lines), ""]
    out += [f"**{report.verdict()}**", ""]
    out += ["Inputs, beside those with a number in brackets:", "", *(f"- {one}" for one in inputs), ""]
    out += ["Whose the numbered inputs are:", "", *(f"- [{i}] {one}" for i, one in enumerate(sources, 1)), ""]
    out += ["Everything without a number is computed:", "", *(f"- {one}" for one in FORMULAS)]
    out += ["", *(f"Note: {one}" for one in report.notes)] if report.notes else []
    return "\n".join(out)
