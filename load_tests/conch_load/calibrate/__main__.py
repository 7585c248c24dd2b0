"""``python -m conch_load.calibrate``: hold the generator against a server of known times, and find its ceiling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from conch_load.calibrate.faults import Behaviour
from conch_load.calibrate.table import Row, accuracy_table, ceiling_table, measure, running_stub
from conch_load.folders import stamped

_SHORT_SHARE = 32  # so many times fewer users make as much work with streams of one token
FRONTS = ("triton-grpc", "triton-http-stream", "openai")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. Exit code 0: all within the bars, and every run valid; 1: not."""
    parser = argparse.ArgumentParser(prog="calibrate", description=__doc__)
    parser.add_argument("--fronts", nargs="+", choices=FRONTS, default=list(FRONTS))
    parser.add_argument("--users", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10, help="of the measured part of each run")
    parser.add_argument("--ceiling", nargs="*", type=int, default=[], help="users at which to look for the ceiling")
    parser.add_argument("--workers", nargs="+", type=int, default=[1], help="processes, for the ceiling")
    parser.add_argument("--out", type=Path, default=None, help="new folder of the runs (reports/load/calibrate-TIME)")
    arguments = parser.parse_args(argv)
    arguments.out = arguments.out or stamped("calibrate")
    known = Behaviour()
    rows: list[Row] = []
    with running_stub(known) as stub:
        for front in arguments.fronts:
            for users in arguments.users:
                rows.append(measure(stub, front, users, arguments.out, seconds=arguments.seconds))
                _say(rows[-1])
    print(accuracy_table(rows, known))
    for title, behaviour, tokens, share in (
        ("Long streams: 256 tokens, a piece every 20 ms", Behaviour(ttft_ms=20, itl_ms=20), 256, 1),
        ("Short streams: one token after 5 ms", Behaviour(ttft_ms=5, itl_ms=0), 1, _SHORT_SHARE),
    ):
        if arguments.ceiling:
            print(f"\n{title}\n\n{ceiling_table(_ceiling(arguments, behaviour, tokens, share))}")
    return 0 if all(row.holds(known) and not row.invalid for row in rows) else 1


def _ceiling(arguments: argparse.Namespace, behaviour: Behaviour, tokens: int, share: int) -> list[Row]:
    rows = []
    for front in arguments.fronts:
        for workers in arguments.workers:
            for users in dict.fromkeys(max(1, users // share) for users in arguments.ceiling):
                with running_stub(behaviour) as stub:
                    folder = arguments.out / f"ceiling-{tokens}"
                    seconds = max(arguments.seconds, 6.0)
                    rows.append(measure(stub, front, users, folder, seconds=seconds, tokens=tokens, workers=workers))
                _say(rows[-1])
    return rows


def _say(row: Row) -> None:
    print(f"{row.front}, {row.users} users, {row.workers} workers: {row.chunks_per_s:.0f} pieces/s, "
          f"TTFT {row.ttft[0]:.1f}/{row.ttft[1]:.1f} ms{', INVALID: ' + row.invalid[0] if row.invalid else ''}",
          file=sys.stderr, flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
