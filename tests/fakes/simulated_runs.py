"""Run folders of servers that exist on paper alone, with every stamp known: what the analysis is tested on."""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from conch_load.records import (
    GENERATOR_FILE,
    REQUESTS_FILE,
    GeneratorSample,
    RequestRecord,
    RunInfo,
    write_line,
    write_run,
)

MS = 1_000_000
S = 1_000_000_000

RUN = RunInfo(
    name="simulated", started_unix_ns=1_700_000_000 * S, front="triton-grpc", target="127.0.0.1:8001", model="ensemble",
    workload={"kind": "fixed", "input_tokens": "64", "output_tokens": "8"},
    arrivals={"kind": "poisson", "rate_per_s": 20.0}, duration_s=60.0, workers=1, seed=1,
    slo_ms={"ttft_p99_ms": 500.0, "tpot_p99_ms": 50.0}, ended_ns=61 * S,
)  # fmt: skip


def record(
    index: int, sent_ms: float, ttft_ms: float = 100, gap_ms: float = 20, tokens: int = 8, due_ms: float | None = None,
    **changes: object,
) -> RequestRecord:  # fmt: skip
    """A request with a known TTFT and known, equal gaps, one token a chunk."""
    first = sent_ms + ttft_ms
    chunk_ns = tuple(round((first + gap_ms * place) * MS) for place in range(tokens))
    made = RequestRecord(
        index=index, front="triton-grpc", worker=0, intended_ns=None if due_ms is None else round(due_ms * MS),
        sent_ns=round(sent_ms * MS), chunk_ns=chunk_ns, final_ns=chunk_ns[-1] if chunk_ns else round(first * MS),
        prompt_tokens=64, requested_tokens=tokens, chunk_tokens=(1,) * tokens, server_prompt_tokens=64,
        server_output_tokens=tokens, local_output_tokens=tokens, finish_reason="length",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def open_loop(
    rate_per_s: float = 20, duration_s: float = 60, seed: int = 1, slots: int = 8, prefill_ms: float = 60,
    gap_ms: float = 20, tokens: int = 8, stall: tuple[float, float] | None = None, client_cap: int | None = None,
) -> list[RequestRecord]:  # fmt: skip
    """Poisson arrivals at a server of so many slots, each request's service drawn around the given times.

    Args:
        stall: (begin, end) in s: nothing leaves the server between them.
        client_cap: the client sends no more than so many at a time: it is late, though the schedule is not.
    """
    rng = random.Random(seed)
    free_ms = [0.0] * slots
    client_ms = [0.0] * (client_cap or 0)
    due_ms, found = 0.0, []
    while True:
        due_ms += rng.expovariate(rate_per_s) * 1e3
        if due_ms >= duration_s * 1e3:
            return found
        sent_ms = max(due_ms, heapq.heappop(client_ms)) if client_cap else due_ms
        clock = max(sent_ms, heapq.heappop(free_ms))
        stamps = []
        for place in range(tokens):
            clock += rng.lognormvariate(0, 0.25) * (gap_ms if place else prefill_ms)
            if stall and stall[0] * 1e3 <= clock < stall[1] * 1e3:
                clock = stall[1] * 1e3 + rng.random()
            stamps.append(round(clock * MS))
        heapq.heappush(free_ms, clock)
        if client_cap:
            heapq.heappush(client_ms, clock)
        one = record(len(found), sent_ms, due_ms=due_ms, tokens=tokens)
        found.append(dataclasses.replace(one, chunk_ns=tuple(stamps), final_ns=stamps[-1] + MS))


def closed_loop(
    users: int = 8, duration_s: float = 30, seed: int = 1, prefill_ms: float = 40, gap_ms: float = 8, tokens: int = 16
) -> list[RequestRecord]:
    """Users that ask again at once; a step of the server takes longer the more of them there are."""
    rng = random.Random(seed)
    slower = 1 + users / 24
    heap = [(rng.random() * 50, user) for user in range(users)]
    heapq.heapify(heap)
    found: list[RequestRecord] = []
    while True:
        sent_ms, user = heapq.heappop(heap)
        if sent_ms >= duration_s * 1e3:
            return found
        clock, stamps = sent_ms + users * 3, []
        for place in range(tokens):
            clock += rng.lognormvariate(0, 0.2) * slower * (gap_ms if place else prefill_ms)
            stamps.append(round(clock * MS))
        one = record(len(found), sent_ms, tokens=tokens)
        found.append(dataclasses.replace(one, chunk_ns=tuple(stamps), final_ns=stamps[-1]))
        heapq.heappush(heap, (clock + 1, user))


def samples_of(records: Sequence[RequestRecord], seconds: int) -> list[GeneratorSample]:
    """What a generator that is well would have noted every second."""
    found = []
    for second in range(1, seconds + 1):
        at_ns = second * S
        in_flight = sum(one.sent_ns <= at_ns < (one.final_ns or at_ns + 1) for one in records)
        found.append(GeneratorSample(at_ns, 0, 0.8 + (second * 7 % 13) / 10, 0.31, in_flight, 0))
    return found


def write_folder(folder: Path, records: Iterable[RequestRecord], run: RunInfo = RUN, sampled: bool = True) -> Path:
    """Write a run folder, with the generator's samples."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = list(records)
    write_run(folder, run)
    with (folder / REQUESTS_FILE).open("w", encoding="utf-8") as out:
        for one in kept:
            write_line(out, one)
    if sampled:
        with (folder / GENERATOR_FILE).open("w", encoding="utf-8") as out:
            for sample in samples_of(kept, round(run.duration_s)):
                write_line(out, sample)
    return folder
