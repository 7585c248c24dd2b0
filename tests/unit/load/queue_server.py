"""A server whose capacity is known: Poisson arrivals, k places, exponential times (M/M/k), as records of a run.

A request waits for a place, then its first token comes at once and its second after its time of service, so TTFT is
the wait. Of the wait the distribution is known: P(wait > t) = C(k, a) exp(-(k mu - rate) t), with Erlang's C and
a = rate / mu.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from conch_load.analysis.columns import columns
from conch_load.analysis.summarize import make_summary
from conch_load.analysis.summary import Summary
from conch_load.records import RequestRecord, RunInfo


@dataclass(frozen=True)
class QueueServer:
    """k places, each of which ends ``mu_per_s`` requests a second."""

    places: int = 8
    mu_per_s: float = 1.0

    def erlang_c(self, rate_per_s: float) -> float:
        """The share of requests that must wait."""
        load = rate_per_s / self.mu_per_s
        terms = [load**i / math.factorial(i) for i in range(self.places)]
        last = load**self.places / math.factorial(self.places) * self.places / (self.places - load)
        return last / (sum(terms) + last)

    def largest_rate(self, limit_s: float, percentile: float) -> float:
        """The rate at which that percentile of the wait is the limit."""
        low, high = 0.0, self.places * self.mu_per_s * (1 - 1e-12)
        for _ in range(100):
            rate = (low + high) / 2
            late = self.erlang_c(rate) * math.exp(-(self.places * self.mu_per_s - rate) * limit_s)
            low, high = (rate, high) if late < 1 - percentile / 100 else (low, rate)
        return low

    def waits(self, rate_per_s: float, seed: int, count: int) -> tuple[list[float], list[float], list[float]]:
        """When each request came, how long it waited, and how long it was served; s."""
        rng = np.random.default_rng(seed)
        due = np.cumsum(rng.exponential(1 / rate_per_s, count)).tolist()
        served = rng.exponential(1 / self.mu_per_s, count).tolist()
        free = [0.0] * self.places
        waited = []
        for at, service in zip(due, served, strict=True):
            begin = max(at, heapq.heappop(free))
            waited.append(begin - at)
            heapq.heappush(free, begin + service)
        return due, waited, served

    def records(self, rate_per_s: float, seed: int, count: int, warm_up: int) -> Iterable[RequestRecord]:
        """The same as a run would have recorded it."""
        for index, (due, waited, served) in enumerate(zip(*self.waits(rate_per_s, seed, count), strict=True)):
            due_ns, first_ns = round(due * 1e9), round((due + waited) * 1e9) + 1
            last_ns = first_ns + round(served * 1e9) + 1
            yield RequestRecord(index, "triton-grpc", 0, due_ns, due_ns, (first_ns, last_ns), last_ns, 8, 2, (1, 1),
                                warm_up=index < warm_up)  # fmt: skip

    def run(
        self, rate_per_s: float, seed: int, count: int, slo_ms: dict[str, float], invalid: tuple[str, ...] = ()
    ) -> Summary:
        """A run of so many requests, a fifth more to warm up with."""
        warm_up = count // 5
        found = list(self.records(rate_per_s, seed, count + warm_up, warm_up))
        warm_s, end_s = ((found[i].intended_ns or 0) / 1e9 for i in (warm_up, -1))
        info = RunInfo(
            "simulated", 0, "triton-grpc", "none", "none", {"kind": "fixed"},
            {"kind": "poisson", "rate_per_s": rate_per_s}, end_s - warm_s + 1e-6, 1, seed, slo_ms=slo_ms,
            warm_up_s=warm_s, invalid=invalid,
        )  # fmt: skip
        return make_summary(info, columns(found), [])
