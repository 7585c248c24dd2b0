"""``report.md``: a run in the length of a comment on a pull request."""

from __future__ import annotations

from conch_load.analysis.definitions import METRICS, RULES
from conch_load.analysis.summary import Summary
from conch_load.report import texts

_SHOWN = ("ttft_corrected_ms", "ttft_ms", "tpot_ms", "gap_ms", "e2e_corrected_ms", "e2e_ms")
_COLUMNS = ("p50", "p95", "p99")


def render(summary: Summary) -> str:
    """The Markdown of one run."""
    run, counts = summary.run, summary.counts
    lines = [
        f"## Load test: {run.name}", "",
        f"{run.front} · {run.model} · {texts.load_text(run.arrivals)} · {texts.workload_text(run.workload)} · "
        f"{summary.window.length_s:.0f} s measured · seed {run.seed} · {texts.started(summary)}", "",
    ]  # fmt: skip
    if not summary.valid:
        lines += ["> **Invalid run: do not use these figures.**", *(f"> - {one}" for one in summary.invalid), ""]
    lines += ["| rate | a second |", "|---|---|"]
    lines += [f"| {label} | {cell} |" for _, label, cell in texts.rate_rows(summary)]
    heads = list(_COLUMNS)
    lines += ["", "| latency | " + " | ".join(heads) + " | highest |", "|---" * (len(heads) + 2) + "|"]
    for key in _SHOWN:
        figure = summary.metrics.get(key)
        if figure is None:
            continue
        cells = [texts.cell(figure.percentiles[name]) for name in heads]
        shown = [f"{one} ({one.hint})" if one.text == texts.NONE else str(one) for one in cells]
        label = f"{METRICS[key].label}, {METRICS[key].unit}"
        lines.append(f"| {label} | " + " | ".join(shown) + f" | {texts.number(figure.highest)} |")
    lines += ["", *_slo(summary), *(f"- {one}" for one in texts.omission(summary))]
    lines.append(f"- {counts.succeeded:,} of {counts.measured:,} requests succeeded" + _errors(summary))
    lines += [f"- {one}" for one in summary.warnings]
    lines += ["", f"In brackets: {RULES['interval'].split(': ')[0].rstrip('.')}; percentiles are of requests that "
              "succeeded. Definitions stand in report.html and docs/load_testing.md.", ""]  # fmt: skip
    return "\n".join(lines)


def _errors(summary: Summary) -> str:
    errors = summary.counts.errors
    return "" if not errors else "; failed: " + ", ".join(f"{code} {one.count}" for code, one in errors.items())


def _slo(summary: Summary) -> list[str]:
    rows = texts.objective_rows(summary)
    if not rows:
        return []
    lines = ["| SLO | limit | seen | late | verdict |", "|---|---|---|---|---|"]
    for one in rows:
        verdict = one["outcome"] + (f" ({one['detail']})" if one["detail"] else "")
        cells = (f"{one['name']} {one['clock']}", one["limit"], one["observed"], one["late"], verdict)
        lines.append(f"| {' | '.join(cells)} |")
    share = summary.slo.good_share
    if share is not None:
        lines += ["", f"Requests within every limit: {share.value:.1%} "
                  f"({share.low or 0:.1%} to {1 if share.high is None else share.high:.1%})"]  # fmt: skip
    return [*lines, ""]
