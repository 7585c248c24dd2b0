"""``python -m conch_load``: run a load test, finish one, join one as a worker."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from conch_load.config import ConfigError, RunConfig
from conch_load.flags import add_flags, config_of
from conch_load.folders import point_latest, stamped
from conch_load.records import REPORT_MARKDOWN_FILE, BadRecordError, RunInfo, read_run
from conch_load.run import REFUSED, RunError, run, server_sources
from conch_load.server_side import Watch
from conch_load.workloads import WorkloadError

INVALID = 4  # exit code: measured, but the figures must not be used


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: measured; 2: bad flags; 3: nothing was run; 4: the run is invalid."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, WorkloadError, BadRecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("stopped; python -m conch_load finish FOLDER makes a report of what there is", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="conch_load", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="one run, without a page")
    add_flags(one)
    one.add_argument("--users", type=int, default=None, help="closed loop: how many ask at a time (16)")
    one.add_argument("--workers", type=int, default=1, help="processes on this machine")
    one.add_argument("--expect-workers", type=int, default=0, help="workers on other machines (see worker)")
    one.add_argument("--master-bind", default="127.0.0.1:0", help="where those connect to: host:port")
    one.add_argument("--out", type=Path, default=None, help="new folder of the run (reports/load/NAME-TIME)")
    one.set_defaults(run=_run)
    two = commands.add_parser("finish", help="check and report a run folder again")
    two.add_argument("folder", type=Path)
    two.set_defaults(run=_finish)
    three = commands.add_parser("worker", help="serve a run of another machine: a Locust worker")
    three.add_argument("--master", required=True, help="host:port of that run's --master-bind")
    three.set_defaults(run=_worker)
    four = commands.add_parser("watch", help="look at the server of a run until stdin ends: the page does")
    four.add_argument("folder", type=Path)
    four.set_defaults(run=_watch)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(
        vars(arguments), arguments.users, workers=arguments.workers, expect_workers=arguments.expect_workers,
        master_bind=arguments.master_bind,
    )  # fmt: skip
    folder: Path = arguments.out or stamped(config.name)
    if arguments.out is None:
        print(f"run folder: {folder}", file=sys.stderr, flush=True)
    info = run(config, folder)
    point_latest(folder)
    return _report(info, folder)


def _finish(arguments: argparse.Namespace) -> int:
    from conch_load.honesty.finish import finish

    return _report(finish(arguments.folder), arguments.folder)


def _report(info: RunInfo, folder: Path) -> int:
    """What the analysis makes of it, and the verdict."""
    from conch_load.analysis import summarize
    from conch_load.report import write

    summary = summarize(folder)
    write(folder)
    print((folder / REPORT_MARKDOWN_FILE).read_text(encoding="utf-8"))
    requests = info.checks.get("requests", {})
    print(f"{requests.get('succeeded', 0)} of {requests.get('measured', 0)} measured requests succeeded; "
          f"files in {folder}")  # fmt: skip
    for reason in summary.invalid:  # those of the run, and that its measured window had no success
        print(f"INVALID: {reason}")
    return 0 if summary.valid else INVALID


def _watch(arguments: argparse.Namespace) -> int:
    config = RunConfig.model_validate(read_run(arguments.folder).settings)
    with Watch(arguments.folder, server_sources(config)):
        sys.stdin.read()
    return 0


def _worker(arguments: argparse.Namespace) -> int:
    import subprocess

    from conch_load.run import LOCUSTFILE

    host, _, port = arguments.master.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"master must be host:port, got {arguments.master!r}")
    line = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--worker", "--master-host", host,
            "--master-port", port]  # fmt: skip
    return subprocess.run(line, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
