"""Traces of real services: lengths and times, no texts. Words stand in for what was asked.

Mooncake: JSONL, ``{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [block, ...]}``; equal
ids are equal blocks of 512 tokens, so what was shared is shared here. BurstGPT: CSV,
``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``, timestamps in seconds; rows without response
tokens are requests that failed there, and are left out (and counted).
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch_load.config import WorkloadConfig
from conch_load.workloads.base import Ask, WorkloadError
from conch_load.workloads.prompts import read_lines
from conch_load.workloads.tokens import Tokens

BLOCK_TOKENS = 512  # of a hash id in a Mooncake trace
_MOONCAKE = {"timestamp", "input_length", "output_length", "hash_ids"}
_BURSTGPT = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")


@dataclass(frozen=True)
class TraceEntry:
    """One line of a trace: when, from the trace's first request, and how long."""

    at_ns: int
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


class TraceWorkload:
    """The requests of a trace, in its order; from the start again when it is over (not with arrivals of kind trace).

    Args:
        config: kind mooncake or burstgpt.
        seed: of the run: of the words.
        tokens: counts.
        salt: of the run, for the front of each block: see RunConfig.
        until_ns: what the trace has then or later is not sent, and counted.

    Raises:
        WorkloadError: the file is missing, empty, out of order or not in its format.
    """

    def __init__(
        self, config: WorkloadConfig, seed: int, tokens: Tokens, salt: str = "", until_ns: float = math.inf
    ) -> None:
        assert config.path is not None
        self._config, self._seed, self._tokens, self._salt = config, seed, tokens, salt
        read = read_mooncake if config.kind == "mooncake" else read_burstgpt
        self._entries, self._skipped = read(config.path)
        self._after_end = sum(entry.at_ns >= until_ns for entry in self._entries)
        self._blocks: dict[int, str] = {}

    @property
    def times_ns(self) -> tuple[int, ...]:
        return tuple(entry.at_ns for entry in self._entries)

    def ask(self, index: int) -> Ask:
        entry = self._entries[index % len(self._entries)]
        text = self._text(index, entry)
        return Ask(index, text, None, self._tokens.count_prompt(text), entry.output_tokens)

    def chain(self, number: int) -> Sequence[int]:
        return (number,)

    def longest(self, count: int) -> tuple[int, int, int]:
        entries = list(enumerate(self._entries[: max(1, count)]))
        index, entry = max(entries, key=lambda one: one[1].input_tokens + one[1].output_tokens)
        return index, entry.input_tokens, entry.output_tokens

    def describe(self) -> Mapping[str, object]:
        return {"kind": self._config.kind, "path": str(self._config.path), "entries": len(self._entries),
                "left_out_failed": self._skipped, "left_out_after_end": self._after_end,
                "force_output": self._config.force_output}  # fmt: skip

    def _text(self, index: int, entry: TraceEntry) -> str:
        if not entry.blocks:
            return self._tokens.words(entry.input_tokens, f"{self._seed}/words/{index}", self._salt)
        text, left = "", entry.input_tokens
        for block in entry.blocks:
            if left <= 0:
                break
            text += self._block(block) if left >= BLOCK_TOKENS else self._words_of(block, left)
            left -= BLOCK_TOKENS
        return text + (self._tokens.plain_words(left, f"{self._seed}/rest/{index}") if left > 0 else "")

    def _block(self, block: int) -> str:
        if block not in self._blocks:
            self._blocks[block] = self._words_of(block, BLOCK_TOKENS)
        return self._blocks[block]

    def _words_of(self, block: int, count: int) -> str:
        return self._tokens.plain_words(count, f"{self._seed}/block/{block}", self._salt)


def read_mooncake(path: Path) -> tuple[list[TraceEntry], int]:
    """Read a Mooncake trace.

    Returns:
        Its entries, and 0: it knows no failures.

    Raises:
        WorkloadError: see TraceWorkload.
    """
    rows = []
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkloadError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict) or not set(row) <= _MOONCAKE or not _MOONCAKE - {"hash_ids"} <= set(row):
            raise WorkloadError(f"{where}: must have timestamp, input_length, output_length and hash_ids, "
                                f"got {line[:80]!r}")  # fmt: skip
        blocks = row.get("hash_ids", [])
        if not isinstance(blocks, list) or not all(isinstance(block, int) for block in blocks):
            raise WorkloadError(f"{where}: hash_ids must be a list of whole numbers, got {blocks!r}")
        rows.append((where, 1e6, row["timestamp"], row["input_length"], row["output_length"], tuple(blocks)))
    return _entries(rows), 0


def read_burstgpt(path: Path) -> tuple[list[TraceEntry], int]:
    """Read a BurstGPT trace.

    Returns:
        Its entries, and how many rows were left out because they had failed.

    Raises:
        WorkloadError: see TraceWorkload.
    """
    lines = read_lines(path)
    reader = csv.DictReader(line for _, line in lines)
    if tuple(reader.fieldnames or ()) != _BURSTGPT:
        raise WorkloadError(f"{path}:1: the header must be {','.join(_BURSTGPT)}, got {lines[0][1]!r}")
    rows, skipped = [], 0
    for (number, _), row in zip(lines[1:], reader, strict=True):
        where = f"{path}:{number}"
        try:
            at, prompt, output = float(row["Timestamp"]), int(row["Request tokens"]), int(row["Response tokens"])
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"{where}: {error}") from None
        if output == 0:
            skipped += 1
            continue
        rows.append((where, 1e9, at, prompt, output, ()))
    if not rows:
        raise WorkloadError(f"{path} has no request that succeeded")
    return _entries(rows), skipped


def _entries(rows: Sequence[tuple[str, float, Any, Any, Any, tuple[int, ...]]]) -> list[TraceEntry]:
    found: list[TraceEntry] = []
    first = before = None
    for where, unit_ns, at, prompt, output, blocks in rows:
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not at >= 0:
            raise WorkloadError(f"{where}: the timestamp must be a number >= 0, got {at!r}")
        for name, value in (("input", prompt), ("output", output)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise WorkloadError(f"{where}: the {name} length must be a whole number >= 1, got {value!r}")
        if before is not None and at < before:
            raise WorkloadError(f"{where}: out of order: the timestamp {at:g} is before {before:g} of the line above")
        before = at
        first = at if first is None else first
        found.append(TraceEntry(round((at - first) * unit_ns), prompt, output, blocks))
    return found
