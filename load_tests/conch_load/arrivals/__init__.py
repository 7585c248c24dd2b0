"""When it is asked: for an open loop, every moment before the run begins."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from conch_load.config import ArrivalsConfig, RunConfig


def schedule(config: RunConfig, trace_ns: Sequence[int] | None) -> list[int]:
    """When each request is due, in ns from the run's start, warm-up included, ascending; empty for a closed loop.

    The gaps are those of one stream of requests: workers share it by index, so that their number changes nothing.

    Args:
        config: of the run.
        trace_ns: the times of a trace workload.
    """
    arrivals, end = config.arrivals, config.end_ns
    if arrivals.kind == "closed":
        return []
    if arrivals.kind == "trace":
        assert trace_ns is not None
        until = trace_end_ns(config)
        return [round(at / arrivals.speed) for at in trace_ns if at < until]
    if arrivals.kind == "steps":
        return list(_steps(arrivals, config.warm_up_ns, end, random.Random(f"{config.seed}/arrivals")))
    assert arrivals.rate_per_s is not None
    rng = random.Random(f"{config.seed}/arrivals")
    times, at = [], 0.0
    while (at := at + _gap_s(arrivals, rng) * 1e9) < end:
        times.append(round(at))
    return times


def trace_end_ns(config: RunConfig) -> float:
    """Where the run ends, by the clock of its trace: what is due there or later is left out."""
    return config.end_ns * config.arrivals.speed


def _gap_s(arrivals: ArrivalsConfig, rng: random.Random) -> float:
    rate = arrivals.rate_per_s
    assert rate is not None
    if arrivals.kind == "constant":
        return 1 / rate
    if arrivals.kind == "poisson":
        return rng.expovariate(rate)
    # A gamma variable of shape k has a squared coefficient of variation of 1/k, and a mean of k times its scale.
    return rng.gammavariate(1 / arrivals.burstiness, arrivals.burstiness / rate)


def _steps(arrivals: ArrivalsConfig, warm_up_ns: int, end_ns: int, rng: random.Random) -> Iterator[int]:
    """Poisson within each step; a rate of 0 is silence. The warm-up has the rate of the first step, the last one goes
    on to the end."""
    begin, spans = 0.0, []
    for number, (rate, seconds) in enumerate(arrivals.steps):
        until = (warm_up_ns if number == 0 else begin) + seconds * 1e9
        spans.append((begin, until, rate))
        begin = until
    begin, _, rate = spans[-1]
    spans[-1] = (begin, float(end_ns), rate)
    for begin, until, rate in spans:
        at = begin
        while rate > 0 and (at := at + rng.expovariate(rate) * 1e9) < min(until, end_ns):
            yield round(at)
