"""Conversations: a system prompt that many share, and turns that hold all turns before.

The assistant's turns in the history are made, not taken from the server: else two servers, or two fronts, would be
asked different things. What the prefix cache can find is the same: everything up to the first made answer, and from
turn to turn the history as it was sent.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence

from conch_load.config import Length, WorkloadConfig
from conch_load.workloads.base import Ask
from conch_load.workloads.tokens import Tokens

# In an open loop this many conversations run side by side, so that a turn is not due right after the one before it.
SIDE_BY_SIDE = 8


class ChatWorkload:
    """Conversations of ``turns`` turns.

    Args:
        config: kind chat; input_tokens is of one user's message, output_tokens of one answer.
        seed: of the run.
        tokens: counts; must know the chat template for exact counts.
        salt: of the run, for the front of each message: see RunConfig.
    """

    times_ns = None

    def __init__(self, config: WorkloadConfig, seed: int, tokens: Tokens, salt: str = "") -> None:
        self._config, self._seed, self._tokens, self._salt = config, seed, tokens, salt
        self._input, self._output = Length.parse(config.input_tokens), Length.parse(config.output_tokens)

    def ask(self, index: int) -> Ask:
        block, within = divmod(index, SIDE_BY_SIDE * self._config.turns)
        turn, place = divmod(within, SIDE_BY_SIDE)
        conversation = block * SIDE_BY_SIDE + place
        messages = [{"role": "system", "content": self._system(conversation)}]
        for number, (user, answer) in enumerate(self._lengths(conversation, turn + 1)):
            messages.append({"role": "user", "content": self._words(user, f"{conversation}/{number}/user")})
            if number < turn:
                made = self._words(answer, f"{conversation}/{number}/assistant")
                messages.append({"role": "assistant", "content": made})
        prompt = self._tokens.count_messages(messages)
        return Ask(index, None, tuple(messages), prompt, answer, conversation, turn)

    def chain(self, number: int) -> Sequence[int]:
        block, place = divmod(number, SIDE_BY_SIDE)
        start = block * SIDE_BY_SIDE * self._config.turns + place
        return [start + turn * SIDE_BY_SIDE for turn in range(self._config.turns)]

    def longest(self, count: int) -> tuple[int, int, int]:
        conversations = range(-(-max(1, count) // (SIDE_BY_SIDE * self._config.turns)) * SIDE_BY_SIDE)
        # To render all of them would take minutes; the few whose words are most are the longest, give or take a token.
        most = heapq.nlargest(SIDE_BY_SIDE, conversations, key=self._drawn_tokens)
        last = [self.ask(self.chain(number)[-1]) for number in most]
        top = max(last, key=lambda ask: ask.prompt_tokens + ask.output_tokens)
        return top.index, top.prompt_tokens, top.output_tokens

    def describe(self) -> Mapping[str, object]:
        config = self._config
        return {
            "kind": "chat", "input_tokens": str(self._input), "output_tokens": str(self._output),
            "system_tokens": config.system_tokens, "shared_prompts": config.shared_prompts, "turns": config.turns,
            "force_output": config.force_output, "exact_prompt_tokens": self._tokens.knows_template,
        }  # fmt: skip

    def _lengths(self, conversation: int, turns: int) -> list[tuple[int, int]]:
        """Of the user's message and the answer of each turn."""
        rng = random.Random(f"{self._seed}/chat/{conversation}")
        return [(self._input.draw(rng), self._output.draw(rng)) for _ in range(turns)]

    def _drawn_tokens(self, conversation: int) -> int:
        return sum(user + answer for user, answer in self._lengths(conversation, self._config.turns))

    def _system(self, conversation: int) -> str:
        part = f"system/{conversation % self._config.shared_prompts}"
        return self._words(self._config.system_tokens, part)

    def _words(self, count: int, part: str) -> str:
        return self._tokens.message(count, f"{self._seed}/{part}", self._salt)
