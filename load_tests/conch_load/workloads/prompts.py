"""Prompts from a file: a line each, or JSONL with prompt or messages."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from conch_load.config import Length, WorkloadConfig
from conch_load.workloads.base import Ask, WorkloadError
from conch_load.workloads.tokens import SALT_TOKENS, Tokens

_KEYS = {"prompt", "messages", "max_tokens"}


class PromptsWorkload:
    """The prompts of a file, in an order that the seed gives, again and again in new orders.

    Args:
        config: kind prompts. A ``.jsonl`` has objects {"prompt": text} or {"messages": [{role, content}, ...]}, with
            "max_tokens" if they like; any other file has one prompt a line. output_tokens counts where max_tokens is
            not given.
        seed: of the run.
        tokens: counts.
        salt: of the run: some words in front of each prompt, or of the first message of a chat; see RunConfig.

    Raises:
        WorkloadError: the file is missing, has no prompt, or a line that is not one.
    """

    times_ns = None

    def __init__(self, config: WorkloadConfig, seed: int, tokens: Tokens, salt: str = "") -> None:
        assert config.path is not None
        self._config, self._seed, self._tokens = config, seed, tokens
        self._output = Length.parse(config.output_tokens)
        front = f"{tokens.message(SALT_TOKENS + 1, 'front', salt)}\n" if salt else ""
        self._entries = [_salted(entry, front) for entry in _read(config.path)]
        self._order = lru_cache(maxsize=4)(self._shuffled)
        self._counts: dict[int, int] = {}

    def ask(self, index: int) -> Ask:
        place = self._place(index)
        entry = self._entries[place]
        output = entry.get("max_tokens") or self._output.draw(random.Random(f"{self._seed}/lengths/{index}"))
        messages = tuple(entry["messages"]) if "messages" in entry else None
        return Ask(index, entry.get("prompt"), messages, self._count(place), output)

    def chain(self, number: int) -> Sequence[int]:
        return (number,)

    def longest(self, count: int) -> tuple[int, int, int]:
        asks = (self.ask(index) for index in range(max(1, min(count, len(self._entries)))))
        top = max(asks, key=lambda ask: ask.prompt_tokens + ask.output_tokens)
        return top.index, top.prompt_tokens, top.output_tokens

    def describe(self) -> Mapping[str, object]:
        return {"kind": "prompts", "path": str(self._config.path), "prompts": len(self._entries),
                "output_tokens": str(self._output), "force_output": self._config.force_output}  # fmt: skip

    def _place(self, index: int) -> int:
        epoch, within = divmod(index, len(self._entries))
        return self._order(epoch)[within]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self._entries)))
        random.Random(f"{self._seed}/order/{epoch}").shuffle(order)
        return order

    def _count(self, place: int) -> int:
        if place not in self._counts:
            entry = self._entries[place]
            if "messages" in entry:
                self._counts[place] = self._tokens.count_messages(entry["messages"])
            else:
                self._counts[place] = self._tokens.count_prompt(entry["prompt"])
        return self._counts[place]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that hold something, with their numbers.

    Raises:
        WorkloadError: the file cannot be read, or holds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path} cannot be read: {error}") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise WorkloadError(f"{path} is empty")
    return lines


def _read(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path)
    if path.suffix != ".jsonl":
        return [{"prompt": line} for _, line in lines]
    return [_entry(line, f"{path}:{number}") for number, line in lines]


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise WorkloadError(f"{where}: not JSON: {error}") from None
    if not isinstance(entry, dict) or ("prompt" in entry) == ("messages" in entry):
        raise WorkloadError(f"{where}: must be an object with exactly one of prompt and messages, got {line[:80]!r}")
    if unknown := sorted(set(entry) - _KEYS):
        raise WorkloadError(f"{where}: unknown field {unknown[0]}; known are {', '.join(sorted(_KEYS))}")
    if "prompt" in entry and (not isinstance(entry["prompt"], str) or not entry["prompt"]):
        raise WorkloadError(f"{where}: prompt must be a text that is not empty, got {entry['prompt']!r}")
    messages = entry.get("messages", [{"role": "", "content": ""}])
    if not (isinstance(messages, list) and messages and all(_is_message(m) for m in messages)):
        raise WorkloadError(f"{where}: messages must be a list of {{role, content}}, got {messages!r}")
    most = entry.get("max_tokens", 1)
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise WorkloadError(f"{where}: max_tokens must be a whole number >= 1, got {most!r}")
    return entry


def _salted(entry: dict[str, Any], front: str) -> dict[str, Any]:
    if "prompt" in entry:
        return {**entry, "prompt": front + entry["prompt"]}
    first, *others = entry["messages"]
    return {**entry, "messages": [{**first, "content": front + first["content"]}, *others]}


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict) and set(message) == {"role", "content"}
        and all(isinstance(value, str) for value in message.values())
    )  # fmt: skip
