"""The same load through several of Triton's fronts, in turns: what one costs over the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from conch_load.analysis import Summary
from conch_load.config import TRITON_FRONTS, RunConfig
from conch_load.search.drive import Say, make_run, of_its_own, say
from conch_load.search.trial import SearchError
from conch_load.server_side import sources_of


def http_beside(target: str, model: str) -> str:
    """Where Triton's HTTP is, for a target of gRPC on its usual port.

    Raises:
        SearchError: the port is another.
    """
    url = sources_of("triton-grpc", target, model).statistics_url
    if url is None:
        raise SearchError(f"http-target must be given where the target has not gRPC's usual port, got {target}")
    return url.removeprefix("http://")


def in_turns(fronts: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """(round from 1, front): each front once a round, and each round begins with another, so that a machine that warms
    up or slows down does so for all of them.

    Raises:
        SearchError: fewer than two fronts, one of them twice or none of Triton's, or no round.
    """
    if len(fronts) < 2 or len(set(fronts)) < len(fronts) or not set(fronts) <= set(TRITON_FRONTS):
        raise SearchError(f"fronts must be two or more of {', '.join(TRITON_FRONTS)}, got {', '.join(fronts)}")
    if rounds < 1:
        raise SearchError(f"rounds must be 1 or more, got {rounds}")
    return [
        (number + 1, front)
        for number in range(rounds)
        for front in (*fronts[number % len(fronts) :], *fronts[: number % len(fronts)])
    ]


def side_by_side(
    config: RunConfig, http_target: str, turns: Sequence[tuple[int, str]], parent: Path, tell: Say = say,
    make: Callable[[RunConfig, Path], Summary] = make_run,
) -> list[Summary]:  # fmt: skip
    """Make the runs. Those of a round have the same seed: the same requests at the same times, but for the salt.

    Args:
        config: of the runs; its target is that of gRPC.
        http_target: that of the other fronts.
        turns: of :func:`in_turns`.
        parent: gets a folder for each run.
        tell: progress.
        make: makes a run.
    """
    found = []
    for number, front in turns:
        folder = f"round-{number}-{front}"
        target = config.target if front == "triton-grpc" else http_target
        one = of_its_own(config, folder, front=front, target=target, seed=config.seed + number - 1)
        summary = make(one, parent / folder)
        invalid = f"; INVALID: {summary.invalid[0]}" if summary.invalid else ""
        rates = summary.rates
        tell(f"{folder}: {rates['completed_per_s'].value:.3g} requests/s, {rates['output_tokens_per_s'].value:.4g} "
             f"tokens/s{invalid}")  # fmt: skip
        found.append(summary)
    return found
