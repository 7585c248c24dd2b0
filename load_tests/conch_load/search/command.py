"""Several runs that belong together: ``python -m conch_load.search``, which is ``make load-sweep``, ``load-slo`` and
``load-fronts``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from conch_load.analysis.slo import UnknownObjectiveError
from conch_load.config import ConfigError, RunConfig
from conch_load.flags import add_flags, config_of
from conch_load.folders import check_free, point_latest, stamped
from conch_load.records import REPORT_MARKDOWN_FILE, BadRecordError
from conch_load.report import write
from conch_load.report.write import LADDER_FILE
from conch_load.run import REFUSED, RunError
from conch_load.search.drive import Kind, Runner, climb
from conch_load.search.result import RESULT_FILE, as_json, as_text
from conch_load.search.side_by_side import http_beside, in_turns, side_by_side
from conch_load.search.slo_search import Plan, Result, largest_rate, unmet
from conch_load.search.trial import SearchError
from conch_load.workloads import WorkloadError

UNMET, INVALID, INTERRUPTED = 1, 4, 130
_LADDER_USERS = "1,2,4,8,16,32,64"
_FRONTS, _FRONTS_USERS = "triton-grpc,triton-http-stream,triton-http", 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: measured; 1: no rate meets the SLO; 2: bad flags; 3: nothing was run; 4: a run is invalid."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except (ConfigError, SearchError, UnknownObjectiveError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, WorkloadError, BadRecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conch_load.search", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(required=True)
    sweep = commands.add_parser("sweep", allow_abbrev=False, help="a ladder: one run for each rate or number of users")
    sweep.add_argument("--ladder-users", help=f"numbers of users, closed loop ({_LADDER_USERS})")
    sweep.add_argument("--ladder-rates", help="requests per second, open loop: 1,2,4,8")
    sweep.set_defaults(command=_sweep)
    slo = commands.add_parser("slo", allow_abbrev=False, help="the largest rate at which the limits of --slo hold")
    slo.add_argument("--start-rate", type=float, help="requests/s of the first run (what it does one at a time)")
    slo.add_argument("--lowest-rate", type=float, default=0.01, help="no rate below is tried (0.01)")
    slo.add_argument("--highest-rate", type=float, default=10_000.0, help="no rate above is tried (10000)")
    slo.add_argument("--tolerance", type=float, default=0.1, help="how close what holds and what misses must be (0.1)")
    slo.add_argument("--repeats", type=int, default=3, help="runs of which the majority decides; odd (3)")
    slo.add_argument("--most-runs", type=int, default=40, help="it stops after so many runs (40)")
    slo.add_argument("--requests", type=int, help="of a run; twice those that its percentiles need")
    slo.add_argument("--most-run-s", type=float, default=600.0, help="no run is longer (600)")
    slo.set_defaults(command=_slo)
    fronts = commands.add_parser("fronts", allow_abbrev=False, help="the same load through each front, in turns")
    fronts.add_argument("--fronts", default=_FRONTS, help=f"which ({_FRONTS}); --target is that of gRPC")
    fronts.add_argument("--http-target", help="host:port of Triton's HTTP (the usual one beside the target)")
    fronts.add_argument("--users", type=int, help=f"closed loop: how many ask at a time ({_FRONTS_USERS})")
    fronts.add_argument("--rounds", type=int, default=3, help="runs of each front (3)")
    fronts.set_defaults(command=_fronts)
    for one in (sweep, slo, fronts):
        add_flags(one)
        one.add_argument("--workers", type=int, default=1, help="processes on this machine")
        one.add_argument("--out", type=Path, help="new folder for the runs (reports/load/NAME-TIME)")
    return parser


def _config(options: argparse.Namespace, name: str, *, open_loop: bool) -> RunConfig:
    """What the runs have in common. Each gets its own rate or users; until then it has some, so as to be a config."""
    values = {**vars(options), "name": options.name or name}
    if open_loop:
        values |= {"rate": "1"}
    elif options.arrivals not in (None, "closed"):
        raise SearchError(f"--arrivals {options.arrivals} has no users: give --ladder-rates")
    if open_loop and options.arrivals in ("closed", "steps", "trace"):
        raise SearchError(f"--arrivals must be constant, poisson or gamma here, got {options.arrivals}")
    return config_of(values, None, workers=options.workers)


def _parent(out: Path | None, name: str) -> Path:
    """An empty folder for the runs: runs of an earlier ladder in it would be taken for this one's."""
    parent = out or stamped(name)
    check_free(parent)
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise SearchError(f"{flag} must be numbers with commas between them, got {text!r}") from None


def _sweep(options: argparse.Namespace) -> int:
    if options.ladder_users and options.ladder_rates:
        raise SearchError("only one of --ladder-users and --ladder-rates can be given")
    if options.rate or options.steps:
        raise SearchError("--rate and --steps have no meaning for a ladder: give --ladder-rates")
    kind: Kind = "rate_per_s" if options.ladder_rates else "users"
    flag = "--ladder-rates" if options.ladder_rates else "--ladder-users"
    values = _numbers(flag, options.ladder_rates or options.ladder_users or _LADDER_USERS)
    config = _config(options, "sweep", open_loop=bool(options.ladder_rates))
    parent = _parent(options.out, config.name)
    points = climb(config, kind, values, parent)
    write(parent)
    point_latest(parent)
    print(f"written: {parent}: report.html, report.md, {LADDER_FILE}, and a folder for each of {len(points)} runs")
    invalid = [one for one in points if one.invalid]
    for one in invalid:
        print(f"INVALID: {one.folder}: {one.invalid[0]}")
    return INVALID if invalid else 0


def _fronts(options: argparse.Namespace) -> int:
    if options.front:
        raise SearchError("--front has no meaning here: give --fronts")
    turns = in_turns(options.fronts.split(","), options.rounds)
    is_open = options.rate or options.steps or options.arrivals not in (None, "closed")
    users = _FRONTS_USERS if options.users is None and not is_open else options.users
    config = config_of({**vars(options), "name": options.name or "fronts"}, users, workers=options.workers)
    http_target = options.http_target or http_beside(config.target, config.model)
    parent = _parent(options.out, config.name)
    found = side_by_side(config, http_target, turns, parent)
    write(parent)
    point_latest(parent)
    print((parent / REPORT_MARKDOWN_FILE).read_text(encoding="utf-8"))
    print(f"written: {parent}: report.html, report.md, and a folder for each of {len(found)} runs")
    return INVALID if any(one.invalid for one in found) else 0


def _plan(options: argparse.Namespace, seed: int, start_per_s: float) -> Plan:
    return Plan(
        start_per_s, options.lowest_rate, options.highest_rate, options.tolerance, options.repeats, options.most_runs,
        seed,
    )  # fmt: skip


def _search(runner: Runner, plan: Plan, options: argparse.Namespace) -> Result:
    """From the given rate; without one, from what the server does with one request at a time, if that meets the SLO."""
    if options.start_rate is not None:
        return largest_rate(runner.at, plan, runner.alone)
    alone = runner.alone(plan.seed)
    rate = alone.rates.get("completed_per_s", 0.0)
    if alone.holds is False or rate <= 0 or alone.invalid:
        return unmet(alone)
    start = float(f"{min(max(rate, options.lowest_rate), options.highest_rate):.2g}")
    result = largest_rate(runner.at, _plan(options, plan.seed, start))
    return replace(result, trials=(alone, *result.trials))


def _slo(options: argparse.Namespace) -> int:
    if options.rate or options.steps:
        raise SearchError("--rate and --steps have no meaning for a search: give --start-rate")
    if not options.slo:
        raise SearchError("slo must be given, such as --slo ttft_p99_ms=500,tpot_p99_ms=100")
    config = _config(options, "slo-search", open_loop=True)
    plan = _plan(options, config.seed, options.start_rate or max(options.lowest_rate, 1.0))
    parent = _parent(options.out, config.name)
    runner = Runner(config, parent, options.requests, options.most_run_s)
    result = _search(runner, plan, options)
    told = as_json(result, config.slo_ms, plan, config.model_dump(mode="json", exclude={"arrivals", "seed"}))
    (parent / RESULT_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if any(one.folder for one in result.trials):
        write(parent)
    point_latest(parent)
    print(as_text(told))
    print(f"written: {parent}: report.html, report.md, {RESULT_FILE}, and a folder for each run")
    if result.rate_per_s is None:
        return INVALID if result.outcome == "stopped" else UNMET
    return INVALID if result.outcome in ("stopped", "limited") else 0
