"""Write the reports of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conch_load.analysis.summarize import load
from conch_load.analysis.summary import read_summary
from conch_load.records import REPORT_HTML_FILE, REPORT_MARKDOWN_FILE, RUN_FILE
from conch_load.report import ladder, markdown, page
from conch_load.server_side import summary as server_side


def write(folder: Path, remarks: Sequence[str] = ()) -> None:
    """Write ``report.html`` and ``report.md``: of a run that has its ``summary.json``, or of all runs below a folder.

    Args:
        remarks: of several runs: what a search found, in sentences.

    Raises:
        BadRecordError: it is neither.
    """
    if (folder / RUN_FILE).is_file():
        html, text = _run(folder)
    else:
        html, text = _ladder(folder, remarks)
    (folder / REPORT_HTML_FILE).write_text(html, encoding="utf-8")
    (folder / REPORT_MARKDOWN_FILE).write_text(text, encoding="utf-8")


def _run(folder: Path) -> tuple[str, str]:
    summary = read_summary(folder)
    _, found, samples = load(folder)
    measured = ~found.warm_up & (found.start_s >= summary.window.start_s) & (found.start_s < summary.window.end_s)
    told = server_side.summarize(folder) or {}
    html = page.render_run(summary, found, measured, samples, told.get("timeline", ()))
    return html, markdown.render(summary)


def _ladder(folder: Path, remarks: Sequence[str]) -> tuple[str, str]:
    found = ladder.rungs(folder)
    ladder.check_rungs(found, folder)
    text = ladder.markdown(found, folder.name)
    head, _, rest = text.partition("\n\n")
    return page.render_ladder(found, folder.name, remarks), "\n\n".join((head, *remarks, rest))
