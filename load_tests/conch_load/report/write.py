"""Write the reports of a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from conch_load.analysis.summarize import load
from conch_load.analysis.summary import read_summary
from conch_load.records import REPORT_HTML_FILE, REPORT_MARKDOWN_FILE, RUN_FILE, BadRecordError
from conch_load.report import ladder, markdown, page
from conch_load.search.result import RESULT_FILE, headline
from conch_load.server_side import summary as server_side

_Told = TypeVar("_Told")


LADDER_FILE = "ladder.json"  # of a ladder or a search: which of the runs below are its steps


def write(folder: Path) -> None:
    """Write ``report.html`` and ``report.md``: of a run that has its ``summary.json``, or of the runs below a folder:
    those that its ``ladder.json`` names, else all; with what its ``slo.json`` says.

    Raises:
        BadRecordError: it is neither.
    """
    if (folder / RUN_FILE).is_file():
        html, text = _run(folder)
    else:
        html, text = _ladder(folder)
    (folder / REPORT_HTML_FILE).write_text(html, encoding="utf-8")
    (folder / REPORT_MARKDOWN_FILE).write_text(text, encoding="utf-8")


def _run(folder: Path) -> tuple[str, str]:
    summary = read_summary(folder)
    _, found, samples = load(folder)
    measured = ~found.warm_up & (found.start_s >= summary.window.start_s) & (found.start_s < summary.window.end_s)
    told = server_side.summarize(folder) or {}
    html = page.render_run(summary, found, measured, samples, told.get("timeline", ()))
    return html, markdown.render(summary)


def _ladder(folder: Path) -> tuple[str, str]:
    steps = _told(folder / LADDER_FILE, lambda told: {point["folder"] for point in told["points"]})
    remarks = _told(folder / RESULT_FILE, lambda told: [headline(told)]) or []
    found = [one for one in ladder.rungs(folder) if steps is None or one.name in steps]
    ladder.check_rungs(found, folder)
    text = ladder.markdown(found, folder.name)
    head, _, rest = text.partition("\n\n")
    return page.render_ladder(found, folder.name, remarks), "\n\n".join((head, *remarks, rest))


def _told(path: Path, of: Callable[[dict[str, Any]], _Told]) -> _Told | None:
    """Of a file of a search or a ladder; None where there is none."""
    if not path.is_file():
        return None
    try:
        return of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecordError(f"{path}: not what a search or a ladder writes: {type(error).__name__}: {error}") from None
