"""``python -m conch_load.gate RUN --baseline B``: stops a build when a run is worse than its baseline.

Exit code: 0 no regression shown; 1 a regression, or a missed SLO with --require-slo; 2 bad input, or runs of different
loads; 3 with --strict: the runs cannot tell; 4 one of the runs is invalid.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from conch_load.analysis.regression import BadLimitError, check, parse_limits
from conch_load.analysis.repeated import NotComparableError, check_sides, compare_sides, read_side
from conch_load.analysis.summary import Summary
from conch_load.records import BadRecordError
from conch_load.report import comparison_text as text

PASSED, REGRESSED, BAD_INPUT, UNDECIDED, INVALID = range(5)


def main(arguments: list[str] | None = None) -> int:
    """The command; see above for its exit codes."""
    parser = argparse.ArgumentParser(prog="conch_load.gate", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", type=Path, help="run folder, its summary.json, or a folder of repeated runs")
    parser.add_argument("--baseline", type=Path, required=True, help="the same")
    parser.add_argument("--max-regression", action="append", default=[], metavar="[ROW=]SHARE",
                        help="the most it may be worse: 10%% for the usual rows, or ttft_p99_ms=10%%; repeat it")
    parser.add_argument("--require-slo", action="store_true", help="a limit of the run that is missed fails as well")
    parser.add_argument("--strict", action="store_true", help="what cannot be told fails as well")
    parser.add_argument("--markdown", action="store_true")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        limits = parse_limits(options.max_regression)
        run, baseline = read_side(options.run), read_side(options.baseline)
        for one in (*run, *baseline):
            if not one.valid:
                print(f"{one.run.name} is invalid, so it is no measure: {'; '.join(one.invalid)}", file=sys.stderr)
                return INVALID
        check_sides(baseline, run)
        checks = check(compare_sides(baseline, run), limits)
    except (BadRecordError, NotComparableError, BadLimitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(text.gate_table(checks, options.markdown))
    missed = _missed(run) if options.require_slo else []
    outcomes = {one.outcome for one in checks}
    return _end(outcomes, missed, options.strict)


def _missed(runs: Sequence[Summary]) -> list[str]:
    return sorted({one.name for run in runs for one in run.slo.objectives if one.outcome == "missed"})


def _end(outcomes: Collection[str], missed: list[str], strict: bool) -> int:
    """Say what follows, and give the exit code."""
    if missed:
        print(f"\nmissed: {', '.join(missed)}")
    if "regressed" in outcomes:
        print("\nregression: worse beyond the limit, and surely worse")
    if missed or "regressed" in outcomes:
        return REGRESSED
    if "undecided" in outcomes:
        print("\nundecided rows: these runs cannot tell whether the limit is kept; longer runs narrow the intervals")
        return UNDECIDED if strict else PASSED
    print("\nno regression beyond the limits")
    return PASSED


if __name__ == "__main__":
    sys.exit(main())
