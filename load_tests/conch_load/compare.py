"""``python -m conch_load.compare BEFORE AFTER``: what changed between two runs of the same load, with intervals.

Each side is a run, or a folder of repeated runs: with two or more on each side the intervals hold what varies from run
to run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from conch_load.analysis.repeated import NotComparableError, check_sides, compare_sides, notes_of_sides, read_side
from conch_load.records import BadRecordError
from conch_load.report import comparison_page
from conch_load.report import comparison_text as text


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code 0; 2 for what is not a run, or for runs of different loads."""
    parser = argparse.ArgumentParser(prog="conch_load.compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("before", type=Path, help="run folder, its summary.json, or a folder of repeated runs")
    parser.add_argument("after", type=Path)
    parser.add_argument("--different-loads", action="store_true", help="compare though the loads differ, and say so")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page as well")
    options = parser.parse_args(arguments)
    try:
        before, after = read_side(options.before), read_side(options.after)
        remarks = notes_of_sides(before, after)
        try:
            check_sides(before, after)
        except NotComparableError as error:
            if not options.different_loads:
                raise
            remarks.insert(0, f"not the same load: {error}")
    except (BadRecordError, NotComparableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    changes = compare_sides(before, after)
    if options.html is not None:
        page = comparison_page.render(before, after, changes, remarks, (options.before, options.after))
        options.html.write_text(page, encoding="utf-8")
    if options.json:
        print(json.dumps({"verdict": text.verdict(changes), "notes": remarks,
                          "rows": [text.as_json(one) for one in changes]}, indent=1))  # fmt: skip
        return 0
    heading = f"{before[0].run.name} → {after[0].run.name}: {text.verdict(changes)}"
    print(f"**{heading}**" if options.markdown else heading, text.table(changes, options.markdown), sep="\n\n")
    print("", *(f"- {one}" for one in remarks), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
