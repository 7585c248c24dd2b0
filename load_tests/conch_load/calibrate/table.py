"""Runs against the stub, and a table of them: what was known, what was measured."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch_load.analysis.intervals import needed
from conch_load.calibrate.faults import Behaviour
from conch_load.calibrate.letters import write_letters_tokenizer
from conch_load.config import RunConfig, checked
from conch_load.records import RequestRecord, RunInfo, read_requests
from conch_load.run import run

P50_BAR, P99_BAR = 0.03, 0.05


@dataclass(frozen=True)
class RunningStub:
    """Ports of a stub in a process of its own."""

    http_port: int
    grpc_port: int

    def target(self, front: str) -> str:
        """Address for a front."""
        return f"127.0.0.1:{self.grpc_port if front == 'triton-grpc' else self.http_port}"

    def stamps(self) -> dict[str, Any]:
        """What it sent, by request id: arrived_ns, sent_ns."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        try:
            connection.request("GET", "/stamps")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()


@contextmanager
def running_stub(behaviour: Behaviour) -> Iterator[RunningStub]:
    """A stub, gone at the end."""
    flags = [f"--{name.replace('_', '-')}={int(value) if isinstance(value, bool) else value}"
             for name, value in vars(behaviour).items()]  # fmt: skip
    line = [sys.executable, "-m", "conch_load.calibrate.stub", *flags]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            http_port, grpc_port = (int(port) for port in child.stdout.readline().split())
            yield RunningStub(http_port, grpc_port)
        finally:
            child.terminate()


@dataclass(frozen=True)
class Row:
    """One run against the stub. Times in ms, median and highest (``_both``); errors are of single requests, against the
    stub's own stamps."""

    front: str
    users: int
    workers: int
    requests: int
    ttft: tuple[float, float]
    tpot: tuple[float, float]
    ttft_error: tuple[float, float]
    chunks_per_s: float
    streams_per_s: float
    loop_lag_p99_ms: float
    cpu_share: float
    invalid: tuple[str, ...]

    def holds(self, known: Behaviour) -> bool:
        """Whether the figures are within 3 % (p50) and 5 % (p99) of what the stub was told to do."""
        pairs = [(self.ttft, known.ttft_ms)] + ([] if self.front == "triton-http" else [(self.tpot, known.itl_ms)])
        return all(abs(p50 / truth - 1) <= P50_BAR and abs(p99 / truth - 1) <= P99_BAR for (p50, p99), truth in pairs)


def measure(
    stub: RunningStub, front: str, users: int, folder: Path, *, seconds: float, tokens: int = 64, workers: int = 1
) -> Row:
    """One run: a closed loop of ``users``, answers of ``tokens`` tokens."""
    tokenizer = folder / "letters.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_letters_tokenizer(tokenizer)
    config: RunConfig = checked({
        "name": f"{front}-{users}-{workers}", "front": front, "target": stub.target(front), "tokenizer": tokenizer,
        "workload": {"output_tokens": str(tokens)}, "arrivals": {"kind": "closed", "users": users},
        "duration_s": seconds, "warm_up_s": 3, "grace_s": 10, "workers": workers, "check_answers": 0,
    })  # fmt: skip
    here = folder / config.name
    info = run(config, here)
    return row_of(info, list(read_requests(here)), stub.stamps(), users, seconds)


def row_of(
    info: RunInfo, records: Sequence[RequestRecord], stamps: dict[str, Any], users: int, seconds: float
) -> Row:
    """The figures of a run: latencies of the measured requests that succeeded, pieces by when they came."""
    good = [r for r in records if r.error_code is None and r.final_ns is not None and r.request_id in stamps]
    done = [r for r in good if not r.warm_up]
    begin = info.warm_up_s * 1e9
    end = begin + seconds * 1e9
    pieces = sum(begin <= at < end for r in records for at in r.chunk_ns)
    streams = sum(begin <= (r.final_ns or 0) < end for r in good)
    ttft = [(r.chunk_ns[0] - r.sent_ns) / 1e6 for r in done]
    tpot = [(r.chunk_ns[-1] - r.chunk_ns[0]) / 1e6 / (len(r.chunk_ns) - 1) for r in done if len(r.chunk_ns) > 1]
    truth = [(s["sent_ns"][0] - s["arrived_ns"]) / 1e6 for s in (stamps[r.request_id] for r in done)]
    error = [measured - known for measured, known in zip(ttft, truth, strict=True)]
    generator = info.checks["generator"]
    return Row(
        front=info.front, users=users, workers=info.workers, requests=len(done), ttft=_both(ttft), tpot=_both(tpot),
        ttft_error=_both(error), chunks_per_s=pieces / seconds,
        streams_per_s=streams / seconds, loop_lag_p99_ms=generator.get("loop_lag_ms_p99", 0.0),
        cpu_share=generator.get("cpu_share_p50", 0.0), invalid=info.invalid,
    )  # fmt: skip


def _both(values: Sequence[float]) -> tuple[float, float]:
    """Median, and the 99th percentile by nearest rank; of values too few for that, the highest."""
    if not values:
        return float("nan"), float("nan")
    ordered = sorted(values)
    enough = len(ordered) >= needed(99)
    return ordered[(len(ordered) - 1) // 2], ordered[-(-len(ordered) * 99 // 100) - 1] if enough else ordered[-1]


def accuracy_table(rows: Sequence[Row], known: Behaviour) -> str:
    """Markdown: known and measured."""
    lines = [
        f"Known: TTFT {known.ttft_ms:g} ms, gap {known.itl_ms:g} ms. Bars: p50 within {P50_BAR:.0%}, p99 within "
        f"{P99_BAR:.0%}. Of under {needed(99)} requests the highest stands for p99.", "",
        "| front | users | requests | TTFT p50 | p99 | TPOT p50 | p99 | a request's TTFT too long by, p50 | p99 | "
        "loop lag p99 | core | within bars |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        tpot = ("-", "-") if row.front == "triton-http" else tuple(f"{value:.2f}" for value in row.tpot)
        verdict = "yes" if row.holds(known) else "no"
        lines.append(
            f"| {row.front} | {row.users} | {row.requests} | {row.ttft[0]:.1f} | {row.ttft[1]:.1f} | {tpot[0]} "
            f"| {tpot[1]} | {row.ttft_error[0]:.1f} ms | {row.ttft_error[1]:.1f} ms | {row.loop_lag_p99_ms:.1f} ms "
            f"| {row.cpu_share:.0%} | {verdict if not row.invalid else verdict + ', run invalid'} |"
        )
    return "\n".join(lines)


def ceiling_table(rows: Sequence[Row]) -> str:
    """Markdown: what got through, and whether the run was valid."""
    lines = ["| front | workers | users | streams/s | pieces/s | loop lag p99 | core of a worker | valid |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        lines.append(
            f"| {row.front} | {row.workers} | {row.users} | {row.streams_per_s:.0f} | {row.chunks_per_s:.0f} "
            f"| {row.loop_lag_p99_ms:.1f} ms | {row.cpu_share:.0%} | {'no' if row.invalid else 'yes'} |"
        )
    return "\n".join(lines)
