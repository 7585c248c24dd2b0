"""Write the reports of a run folder."""

from __future__ import annotations

from pathlib import Path

from conch_load.analysis.summarize import load
from conch_load.analysis.summary import read_summary
from conch_load.records import REPORT_HTML_FILE, REPORT_MARKDOWN_FILE
from conch_load.report import markdown, page
from conch_load.server_side import summary as server_side


def write(folder: Path) -> None:
    """Write ``report.html`` and ``report.md`` from a run folder that has its ``summary.json``.

    Raises:
        BadRecordError: it is not such a folder.
    """
    summary = read_summary(folder)
    _, found, samples = load(folder)
    measured = ~found.warm_up & (found.start_s >= summary.window.start_s) & (found.start_s < summary.window.end_s)
    told = server_side.summarize(folder) or {}
    html = page.render_run(summary, found, measured, samples, told.get("timeline", ()))
    (folder / REPORT_HTML_FILE).write_text(html, encoding="utf-8")
    (folder / REPORT_MARKDOWN_FILE).write_text(markdown.render(summary), encoding="utf-8")


