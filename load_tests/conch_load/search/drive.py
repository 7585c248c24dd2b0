"""Real runs for ladders and searches: one run folder each, under one parent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conch_load.analysis import Summary, summarize
from conch_load.config import NO_SALT, RunConfig
from conch_load.report import write
from conch_load.report.write import LADDER_FILE
from conch_load.run import RunError, run, server_sources, with_arrivals
from conch_load.search.trial import SearchError, Trial, judge, requests_needed
from conch_load.server_side.idle import wait_until_idle

ALONE = "alone"
SCHEMA_VERSION = 1
Kind = Literal["rate_per_s", "users"]
IDLE_S = 60.0
_OPEN = ("constant", "poisson", "gamma")
Say = Callable[[str], None]


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def at_rate(config: RunConfig, rate_per_s: float) -> RunConfig:
    """The same run at a rate: its open arrivals, or Poisson's where it had users."""
    kind = config.arrivals.kind if config.arrivals.kind in _OPEN else "poisson"
    return with_arrivals(config, kind=kind, rate_per_s=rate_per_s, burstiness=config.arrivals.burstiness,
                         max_connections=config.arrivals.max_connections)  # fmt: skip


def with_users(config: RunConfig, users: int) -> RunConfig:
    """The same run as a closed loop."""
    return with_arrivals(config, kind="closed", users=users, ramp_up_s=config.arrivals.ramp_up_s)


def of_its_own(config: RunConfig, folder: str, **fields: Any) -> RunConfig:
    """A run of several: with its folder in its name, and in its salt, so that no run finds the prompts of another in
    the server's prefix cache."""
    salt = config.salt if config.salt == NO_SALT else f"{config.salt}/{folder}"
    return config.model_copy(update={"name": f"{config.name}, {folder}", "salt": salt, **fields})


def make_run(config: RunConfig, folder: Path) -> Summary:
    """A run, its summary and its report, when the server has done with the one before.

    A run at too high a rate leaves requests behind, which the server may go on with for a while.

    Raises:
        RunError, WorkloadError, BadRecordError: nothing was measured.
    """
    left = wait_until_idle(server_sources(config).metrics_url, IDLE_S)
    if left:
        say(f"{folder.name}: {left:g} requests are still under way after {IDLE_S:g} s; its figures have them in")
    run(config, folder)
    summary = summarize(folder)
    write(folder)
    return summary


@dataclass(frozen=True)
class Point:
    """One step of a ladder: its rate or number of users, its folder below the parent, and why it must not be used."""

    value: float
    folder: str
    invalid: tuple[str, ...] = ()


def write_ladder(parent: Path, kind: Kind, name: str, points: Sequence[Point]) -> None:
    """Write ``ladder.json``: which run folders of a parent belong together, in order of their load."""
    told = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "name": name,
        "points": [
            {"value": one.value, "folder": one.folder, "valid": not one.invalid, "invalid": list(one.invalid)}
            for one in sorted(points, key=lambda one: one.value)
        ],
    }
    (parent / LADDER_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def climb(
    config: RunConfig, kind: Kind, values: Sequence[float], parent: Path, tell: Say = say,
    make: Callable[[RunConfig, Path], Summary] = make_run,
) -> list[Point]:  # fmt: skip
    """A ladder: a run for each value, with the same seed and a salt of its own. ``ladder.json`` is written after each.

    Args:
        config: of the runs, but for their arrivals.
        kind: what the values are.
        values: rates or numbers of users.
        parent: gets a folder for each.
        tell: progress.
        make: makes a run.
    """
    steps = sorted(set(values))
    if not steps or steps[0] <= 0 or (kind == "users" and any(value % 1 for value in steps)):
        what = "rates above 0" if kind == "rate_per_s" else "whole numbers of users above 0"
        raise SearchError(f"steps must be {what}, got {', '.join(f'{one:g}' for one in values) or 'none'}")
    points: list[Point] = []
    for value in steps:
        folder = f"{'rate' if kind == 'rate_per_s' else 'users'}-{value:g}"
        one = at_rate(config, value) if kind == "rate_per_s" else with_users(config, int(value))
        parent.mkdir(parents=True, exist_ok=True)
        summary = make(of_its_own(one, folder), parent / folder)
        points.append(Point(value, folder, tuple(summary.invalid)))
        write_ladder(parent, kind, config.name, points)
        tell(_told(folder, summary))
    return points


def _told(folder: str, summary: Summary) -> str:
    ttft = summary.percentile("ttft_corrected_ms", 99) or summary.percentile("ttft_ms", 99)
    shown = "too few requests for p99" if ttft is None or ttft.value is None else f"TTFT p99 {ttft.value:.4g} ms"
    tokens = summary.rates["output_tokens_per_s"].value
    invalid = f"; INVALID: {summary.invalid[0]}" if summary.invalid else ""
    return f"{folder}: {summary.rates['completed_per_s'].value:.3g} requests/s, {tokens:.4g} tokens/s, {shown}{invalid}"


class Runner:
    """Makes the runs of a search, each long enough for the percentiles of its limits.

    Args:
        config: of the runs; its limits are the search's; its duration is the shortest of a run.
        parent: gets a folder for each run.
        requests: that a run shall have; None: twice those that its percentiles need.
        most_run_s: no run is longer.
        tell: progress.
        make: makes a run.

    Raises:
        SearchError, UnknownObjectiveError: the limits are none that can be searched for.
    """

    def __init__(
        self, config: RunConfig, parent: Path, requests: int | None = None, most_run_s: float = 600.0, tell: Say = say,
        make: Callable[[RunConfig, Path], Summary] = make_run,
    ) -> None:  # fmt: skip
        needed = requests_needed(config.slo_ms)
        if requests is not None and requests < needed:
            raise SearchError(f"requests must be {needed} or more for these percentiles, got {requests}")
        if not 0 < most_run_s < 1e6:
            raise SearchError(f"most_run_s must be above 0, got {most_run_s:g}")
        self._config, self._parent, self._most_run_s, self._tell, self._make = config, parent, most_run_s, tell, make
        self._requests = requests or 2 * needed
        self._needed = needed
        self.points: list[Point] = []

    def at(self, rate_per_s: float, seed: int) -> Trial:
        """A run at a rate, judged."""
        duration = min(max(self._config.duration_s, self._requests / rate_per_s), self._most_run_s)
        if rate_per_s * duration < self._needed:
            reason = f"{self._most_run_s:g} s (most_run_s) have fewer than the {self._needed} requests that it needs"
            return Trial(rate_per_s, seed, None, (reason,))
        config = at_rate(self._config, rate_per_s)
        return self._run(config, f"rate-{rate_per_s:g}-seed-{seed}", rate_per_s, seed, duration)

    def alone(self, seed: int) -> Trial:
        """One request at a time: how the server does with no load at all. It is no step of the ladder: a closed loop
        has no place in one plot with open ones.
        """
        return self._run(with_users(self._config, 1), ALONE, None, seed, self._config.duration_s)

    def _run(self, config: RunConfig, folder: str, rate: float | None, seed: int, duration_s: float) -> Trial:
        config = of_its_own(config, folder, seed=seed, duration_s=duration_s)
        self._parent.mkdir(parents=True, exist_ok=True)
        try:
            summary = self._make(config, self._parent / folder)
        except RunError as error:
            if not self.points:
                raise  # nothing was measured at all
            return Trial(rate, seed, None, invalid=(f"nothing was run: {error}",))
        trial = judge(summary, rate, folder)
        if rate is not None:
            self.points.append(Point(rate, folder, tuple(summary.invalid)))
            write_ladder(self._parent, "rate_per_s", self._config.name, self.points)
        verdict = {True: "holds", False: "misses", None: "cannot tell"}[trial.holds]
        why = f": {'; '.join(trial.reasons)}" if trial.reasons else ""
        invalid = f"; INVALID: {trial.invalid[0]}" if trial.invalid else ""
        self._tell(f"{folder}: {verdict}{why}{invalid}")
        return trial
