"""``python -m conch_load.report FOLDER``: summarize a run anew, or all runs below a folder, and write the reports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conch_load.analysis.slo import UnknownObjectiveError
from conch_load.analysis.summarize import MSER, NONE, summarize
from conch_load.records import RUN_FILE, BadRecordError
from conch_load.report.write import write


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code 0; 2 for what is not a run folder or not a limit; 4 for a run that is invalid."""
    parser = argparse.ArgumentParser(prog="conch_load.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="a run folder, or a folder of several")
    parser.add_argument("--warm-up", default=MSER, metavar="S",
                        help=f"{MSER} (the rule), {NONE}, or seconds to leave out at the beginning")  # fmt: skip
    parser.add_argument("--slo", default=None, metavar="NAME_MS=NUMBER,...",
                        help="limits in the place of the run's own, such as ttft_p99_ms=500")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        warm_up, limits = _warm_up(options.warm_up), _limits(options.slo)
        valid = [summarize(one, warm_up, limits).valid for one in _runs(options.folder)]
        write(options.folder)
    except (BadRecordError, UnknownObjectiveError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((options.folder / "report.md").read_text(encoding="utf-8"))
    print(f"written: {options.folder / 'report.html'}, report.md, and summary.json of each run")
    return 0 if all(valid) else 4


def _runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run, else those below it."""
    if (folder / RUN_FILE).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob(RUN_FILE))
    if not found:
        raise BadRecordError(f"{folder}: not a run folder, nor one of several: there is no {RUN_FILE} in or below it")
    return found


def _warm_up(text: str) -> str | float:
    if text in (MSER, NONE):
        return text
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise BadRecordError(f"--warm-up must be {MSER}, {NONE} or seconds >= 0, got {text!r}")
    return seconds


def _limits(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UnknownObjectiveError(f"slo: must be NAME_MS=NUMBER,..., got {part!r}") from None
    return found


if __name__ == "__main__":
    sys.exit(main())
