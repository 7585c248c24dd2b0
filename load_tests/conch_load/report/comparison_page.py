"""A comparison as a page: what changed, with its interval, as a picture, and the two distributions over each other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from markupsafe import Markup

from conch_load.analysis.columns import Columns
from conch_load.analysis.comparison import FAILED, Change
from conch_load.analysis.intervals import Floats
from conch_load.analysis.summarize import load
from conch_load.analysis.summary import Summary
from conch_load.records import REQUESTS_FILE, RUN_FILE
from conch_load.report import comparison_text, page
from conch_load.report.run_plots import curves
from conch_load.report.scales import Axis

_WIDTH, _NAMES, _ROW, _TOP = 1180, 330, 27, 30
_CSS = {"worse": "worse", "better": "better"}


def render(before: Sequence[Summary], after: Sequence[Summary], changes: Sequence[Change], notes: Sequence[str],
           folders: Sequence[Path]) -> str:  # fmt: skip
    """The page.

    Args:
        folders: of the two sides; where both are single runs with their requests, the distributions are drawn, too.
    """
    return page.environment().get_template("comparison.html.jinja").render(
        title=f"{before[0].run.name} → {after[0].run.name}", verdict=comparison_text.verdict(changes), notes=notes,
        forest=Markup(forest(changes)), heads=comparison_text.HEADS,
        rows=[(comparison_text.change_texts(one), _CSS.get(one.outcome, "")) for one in changes],
        curves=[Markup(one) for one in _distributions((before[0], after[0]), folders)], **page.definitions(),
    )  # fmt: skip


def forest(changes: Sequence[Change]) -> str:
    """A row for each ratio: its change as a dot, its interval as a stroke, both in per cent."""
    rows = [one for one in changes if one.change is not None and one.key != FAILED]
    ends = [abs(value) for one in rows for value in (one.change, one.low, one.high) if value is not None]
    reach = min(max([0.05, *ends]) * 1.08, 2.0)
    axis = Axis("change", -reach, reach)
    height = _TOP + _ROW * len(rows) + 26

    def across(value: float) -> float:
        return _NAMES + axis.place(value) * (_WIDTH - _NAMES - 20)

    marks = [f'<path class="grid" d="M{across(value):.1f} {_TOP - 8}V{height - 22}"/>'
             f'<text class="tick" x="{across(value):.1f}" y="{height - 6}" text-anchor="middle">{value:+.0%}</text>'
             for value, _ in axis.ticks(9)]  # fmt: skip
    marks.append(f'<line class="zero" x1="{across(0):.1f}" x2="{across(0):.1f}" y1="{_TOP - 8}" y2="{height - 22}"/>')
    for place, one in enumerate(rows):
        y = _TOP + _ROW * place + 8
        assert one.change is not None
        low, high = (-reach if one.low is None else one.low), (reach if one.high is None else one.high)
        css = _CSS.get(one.outcome, "same")
        texts = comparison_text.change_texts(one)
        hint = escape(f"{texts[0]}: {texts[3]} ({texts[4]})")
        marks.append(
            f'<text class="row-text" x="{_NAMES - 14}" y="{y + 4}" text-anchor="end">{escape(texts[0])}</text>'
            f'<path class="{css}" stroke-width="2.4" fill="none" d="M{across(low):.1f} {y}H{across(high):.1f}"/>'
            f'<circle class="{css}" cx="{across(one.change):.1f}" cy="{y}" r="4.5" data-t="{hint}"/>'
        )
    return (
        '<figure class="chart"><figcaption><b>Change, with its 95 % interval (all rows together)</b>'
        '<span class="key"><i class="dot" style="background:var(--bad)"></i>worse</span>'
        '<span class="key"><i class="dot" style="background:var(--good)"></i>better</span>'
        '<span class="key"><i class="dot" style="background:var(--soft)"></i>no difference shown</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="changes">{"".join(marks)}</svg></figure>'
    )


def _distributions(runs: Sequence[Summary], folders: Sequence[Path]) -> list[str]:
    if not all((folder / name).is_file() for folder in folders for name in (RUN_FILE, REQUESTS_FILE)):
        return []
    found = [_measured(summary, load(folder)[1]) for summary, folder in zip(runs, folders, strict=True)]
    clock = "_corrected_ms" if all(summary.open_loop for summary in runs) else "_ms"
    made = []
    for title, name in (("TTFT", f"ttft{clock}"), ("TPOT", "tpot_ms"), ("End to end", f"e2e{clock}")):
        labels = [f"{when}: {run.run.name}" for when, run in zip(("before", "after"), runs, strict=True)]
        series = [(label, one[name], css) for label, one, css in zip(labels, found, ("c1", "c4"), strict=True)]
        made.append(curves(title, "ms", series, (), ""))
    return [one for one in made if one]


def _measured(summary: Summary, found: Columns) -> dict[str, Floats]:
    window = summary.window
    kept = found.ok & ~found.warm_up & (found.start_s >= window.start_s) & (found.start_s < window.end_s)
    names = ("ttft_ms", "ttft_corrected_ms", "tpot_ms", "e2e_ms", "e2e_corrected_ms")
    return {name: np.asarray(getattr(found, name)[kept], dtype=np.float64) for name in names}
