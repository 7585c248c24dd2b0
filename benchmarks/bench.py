"""``make bench``: the bare engine, the ensemble streamed and the ensemble not streamed, side by side in one run.

Every round measures all of them one after the other, in rotating order, and takes the ratio within the round: what
else the machine does meanwhile then weighs on both sides of a ratio. Reported: medians over the rounds, with the
lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.agreement import ANSWERS, TOKENS, Agreement, agreement
from benchmarks.grpc_load import connect, run_load
from benchmarks.http2 import Http2Connection
from benchmarks.processes import cpu_seconds, steal_share
from benchmarks.workload import PromptMaker
from conch import command_line
from conch.contract import DEFAULT_GRPC_PORT, DEFAULT_HOST, ENGINE, GRPC_PORT_VARIABLE, TOKENIZER
from conch.errors import UnavailableError
from conch.repository.check import check_repository

PROMPT_TOKENS = ANSWER_TOKENS = 64
PREFIX_TOKENS, TAIL_TOKENS = 600, 8
REQUESTS = {1: 4, 16: 48, 64: 128}  # concurrency -> requests of one measurement
KINDS = ("bare", "streamed", "whole")
# What the figures are held to: streamed over bare at each concurrency, and below it.
STREAMED_OVER_BARE = {1: 0.92, 16: 0.85, 64: 0.90}
MOST_ADDED_TTFT_MS = 5.0
LEAST_PREFIX_RATIO = 10.0


@dataclass(frozen=True)
class Measurement:
    """One way of serving, once.

    Attributes:
        kind: one of KINDS.
        tokens_per_s: generated tokens per second, from the first request to the last token.
        cpu_s: processor seconds by process.
        responses: messages that the client received.
        steal_share: share of the processors' time that the hypervisor gave to somebody else.
    """

    kind: str
    concurrency: int
    tokens_per_s: float
    cpu_s: dict[str, float]
    responses: int
    steal_share: float


class Bench:
    """A bare engine and a running server, measured in turns.

    Args:
        repository: the repository that the server serves.
        target: host:port of its gRPC.
    """

    def __init__(self, repository: Path, target: str) -> None:
        version = str(check_repository(repository).version)
        self._target = target
        self._prompts = PromptMaker(repository / TOKENIZER.name / version)
        self._seed = 0
        self._bare = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_engine", str(repository / ENGINE.name / version)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._ask_bare(None)

    def close(self) -> None:
        """End the bare engine."""
        assert self._bare.stdin
        self._bare.stdin.close()
        self._bare.wait()

    def _ask_bare(self, request: dict[str, Any] | None) -> dict[str, Any]:
        assert self._bare.stdin
        assert self._bare.stdout
        if request is not None:
            self._bare.stdin.write(json.dumps(request) + "\n")
            self._bare.stdin.flush()
        line = self._bare.stdout.readline()
        if not line:
            raise UnavailableError("the bare engine ended; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, kind: str, concurrency: int, requests: int) -> Measurement:
        """Run one measurement with prompts that were never used before."""
        self._seed += 1
        prompts = self._prompts.make(requests, PROMPT_TOKENS, self._seed)
        before, steal = cpu_seconds(), steal_share()
        if kind == "bare":
            ids = [p.ids for p in prompts]
            answer = self._ask_bare({"prompts": ids, "concurrency": concurrency, "max_tokens": ANSWER_TOKENS})
            wall_s, responses, client_s = answer["wall_s"], 0, 0.0
        else:
            texts = [p.text for p in prompts]
            with closing(self._connect()) as connection:
                result = run_load(connection, texts, concurrency, ANSWER_TOKENS, stream=kind == "streamed")
            wall_s, responses, client_s = result.wall_s, result.responses, result.cpu_s
        used = {name: round(s - before.get(name, 0.0), 2) for name, s in cpu_seconds().items()}
        return Measurement(
            kind, concurrency, requests * ANSWER_TOKENS / wall_s, {**used, "client": round(client_s, 2)}, responses,
            steal(),
        )  # fmt: skip

    def idle_ttft_ms(self, count: int) -> tuple[list[float], list[float]]:
        """TTFT of single requests on an idle machine, in turns: (bare engine, ensemble)."""
        bare, served = [], []
        with closing(self._connect()) as connection:  # as clients do: one for all
            run_load(connection, ["hello"], 1, 2, stream=True)
            for _ in range(count):
                self._seed += 1
                first, second = self._prompts.make(2, PROMPT_TOKENS, self._seed)
                bare += self._ask_bare({"prompts": [first.ids], "concurrency": 1, "max_tokens": 2})["ttft_ms"]
                served += run_load(connection, [second.text], 1, 2, stream=True).ttft_ms
        return bare, served

    def prefix_ttft_ms(self) -> tuple[float, float]:
        """TTFT of two prompts with the same long beginning: of the first, and of the next, which finds it cached."""
        self._seed += 1
        (prefix,) = self._prompts.make(1, PREFIX_TOKENS, self._seed)
        tails = self._prompts.make(2, TAIL_TOKENS, self._seed)
        with closing(self._connect()) as connection:
            run_load(connection, ["hello"], 1, 2, stream=True)
            first, second = (
                run_load(connection, [prefix.text + tail.text], 1, 2, stream=True).ttft_ms[0] for tail in tails
            )
        return first, second

    def agreement(self) -> Agreement:
        """Greedy answers alone and together, of the bare engine and through the ensemble, whole.

        Alone each prompt is new to either prefix cache, together it is in it: that counts as company, too.
        """
        self._seed += 1
        prompts = self._prompts.make(ANSWERS, PROMPT_TOKENS, self._seed)
        ids, texts = [p.ids for p in prompts], [p.text for p in prompts]

        def ask_bare(concurrency: int) -> list[str]:
            answer = self._ask_bare({"prompts": ids, "concurrency": concurrency, "max_tokens": TOKENS})
            return [self._prompts.text_of(tokens) for tokens in answer["answers"]]

        def ask_ensemble(concurrency: int) -> list[str]:
            with closing(self._connect()) as connection:
                return run_load(connection, texts, concurrency, TOKENS, stream=False).texts

        return agreement(ask_bare, ask_ensemble, ANSWERS)

    def _connect(self) -> Http2Connection:
        try:
            return connect(self._target)
        except OSError as error:
            raise UnavailableError(f"no server at {self._target} ({error.strerror or error})", mend="make up") from None


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median with its spread."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """Median with the order statistics that hold it with at least 95 % (binomial; the whole range below 6 values)."""
    ordered, count = sorted(values), len(values)
    place = 0  # of the lower end: the largest with at most 2.5 % below
    while sum(math.comb(count, k) for k in range(place + 2)) / 2**count <= 0.025:
        place += 1
    return {"median": statistics.median(ordered), "lower": ordered[place], "upper": ordered[count - 1 - place]}


def run(bench: Bench, rounds: int, levels: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """Warm up, then measure ``rounds`` times; the result as it goes into the JSON file."""
    for kind in KINDS:
        bench.measure(kind, 16, 16)
    measured: list[Measurement] = []
    rates: dict[tuple[int, str], list[float]] = {}
    for number in range(rounds):
        turn = KINDS[number % 3 :] + KINDS[: number % 3]
        for concurrency in levels:
            for kind in turn:
                m = bench.measure(kind, concurrency, REQUESTS[concurrency])
                measured.append(m)
                rates.setdefault((concurrency, kind), []).append(m.tokens_per_s)
                say(f"round {number + 1}/{rounds}  {concurrency:>2} concurrent  {kind:<8}  {m.tokens_per_s:7.0f} tok/s")
    bare_ttft, served_ttft = bench.idle_ttft_ms(10 * rounds)
    prefix = [bench.prefix_ttft_ms() for _ in range(3 * rounds)]
    say("answers alone and together")
    agreed = bench.agreement()
    levels_out = {}
    for concurrency in levels:
        bare = rates[concurrency, "bare"]
        entry: dict[str, Any] = {kind: summary(rates[concurrency, kind]) for kind in KINDS}
        for kind in KINDS[1:]:
            pairs = zip(rates[concurrency, kind], bare, strict=True)
            entry[f"{kind}_over_bare"] = summary([a / b for a, b in pairs])
        levels_out[str(concurrency)] = entry
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "rounds": rounds,
        "concurrency": levels_out,
        "idle_ttft_ms": {
            "bare": summary(bare_ttft),
            "ensemble": summary(served_ttft),
            "added": median_interval([s - b for s, b in zip(served_ttft, bare_ttft, strict=True)]),
        },
        "prefix_ttft_ms": {
            "prefix_tokens": PREFIX_TOKENS,
            "tail_tokens": TAIL_TOKENS,
            "first": summary([first for first, _ in prefix]),
            "again": summary([again for _, again in prefix]),
            "first_over_again": summary([first / again for first, again in prefix]),
        },
        "answers": asdict(agreed),
        "measurements": [asdict(m) for m in measured],
    }


def bars(result: dict[str, Any]) -> list[tuple[str, bool]]:
    """What the medians are held to, and whether each is met."""
    told = []
    for level, entry in result["concurrency"].items():
        ratio, least = entry["streamed_over_bare"]["median"], STREAMED_OVER_BARE[int(level)]
        told.append((f"streamed / bare at {level}: {ratio:.2f}, at least {least:.2f}", ratio >= least))
    added = result["idle_ttft_ms"]["added"]["median"]
    told.append((f"TTFT added at idle: {added:.1f} ms, at most {MOST_ADDED_TTFT_MS:g} ms", added <= MOST_ADDED_TTFT_MS))
    ratio = result["prefix_ttft_ms"]["first_over_again"]["median"]
    told.append(
        (f"TTFT first / next with the same beginning: {ratio:.1f}, at least {LEAST_PREFIX_RATIO:g}",
         ratio >= LEAST_PREFIX_RATIO)
    )  # fmt: skip
    return told


def table(result: dict[str, Any]) -> str:
    """The result for a terminal."""

    def cell(s: dict[str, float], digits: int) -> str:
        return f"{s['median']:.{digits}f} ({s['lowest']:.{digits}f}-{s['highest']:.{digits}f})"

    lines = [
        f"prompts of {result['prompt_tokens']} tokens, answers of {result['answer_tokens']}, "
        f"{result['rounds']} rounds; median (lowest-highest)",
        f"{'concurrent':>10}  {'bare tok/s':>18}  {'streamed tok/s':>18}  {'whole tok/s':>18}  "
        f"{'streamed / bare':>18}  {'whole / bare':>18}",
    ]
    for level, entry in result["concurrency"].items():
        cells = [cell(entry[k], 0) for k in KINDS] + [cell(entry[f"{k}_over_bare"], 2) for k in KINDS[1:]]
        lines.append(f"{level:>10}  " + "  ".join(f"{c:>18}" for c in cells))
    ttft, added = result["idle_ttft_ms"], result["idle_ttft_ms"]["added"]
    lines.append(
        f"TTFT at idle: bare {cell(ttft['bare'], 1)} ms, ensemble {cell(ttft['ensemble'], 1)} ms, "
        f"added {added['median']:.1f} ms (95 %: {added['lower']:.1f}-{added['upper']:.1f}; median of the pairs)"
    )
    prefix = result["prefix_ttft_ms"]
    lines.append(
        f"TTFT with a beginning of {prefix['prefix_tokens']} tokens: first {cell(prefix['first'], 0)} ms, the next one "
        f"with it {cell(prefix['again'], 0)} ms, ratio {cell(prefix['first_over_again'], 1)}"
    )
    same = result["answers"]
    lines.append(
        f"greedy answers of {TOKENS} tokens, equal alone and all {same['answers']} together: bare engine "
        f"{same['bare']}, ensemble {same['ensemble']}; equal between the two, alone: {same['alone']}"
    )
    streamed = [m for m in result["measurements"] if m["kind"] == "streamed"]
    tokens = sum(REQUESTS[m["concurrency"]] for m in streamed) * ANSWER_TOKENS
    lines.append("processor time per streamed token, in microseconds: " + ", ".join(
        f"{name} {sum(m['cpu_s'].get(name, 0.0) for m in streamed) / tokens * 1e6:.0f}"
        for name in sorted(streamed[0]["cpu_s"])
    ))  # fmt: skip
    lines.append(
        f"responses per token: {sum(m['responses'] for m in streamed) / tokens:.2f}; time stolen by the "
        f"hypervisor: {max(m['steal_share'] for m in result['measurements']):.1%} at most"
    )
    lines += [f"{'met     ' if met else 'NOT met '} {text}" for text, met in bars(result)]
    return "\n".join(lines)


def at_least_one(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure the served model beside the bare engine.")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    port = os.environ.get(GRPC_PORT_VARIABLE, str(DEFAULT_GRPC_PORT))
    parser.add_argument("--target", default=f"{DEFAULT_HOST}:{port}", help="gRPC address of the running server")
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=list(REQUESTS), choices=list(REQUESTS))
    parser.add_argument("--output", type=Path, default=Path("reports/bench.json"))
    parser.add_argument("--check", action="store_true", help="end with 1 where a median does not meet its bar")
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: measure(arguments))


def measure(arguments: argparse.Namespace) -> int:
    """Run it, write and print the result.

    Raises:
        ConchError: no server, a damaged repository, or an answer that is an error.
    """
    bench = Bench(arguments.repository, arguments.target)
    try:
        result = run(bench, arguments.rounds, arguments.concurrency, lambda line: print(line, file=sys.stderr))
    finally:
        bench.close()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    print(f"written to {arguments.output}")
    return 1 if arguments.check and not all(met for _, met in bars(result)) else 0


if __name__ == "__main__":
    sys.exit(main())
