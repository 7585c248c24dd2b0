"""Random words of lengths that are fixed or drawn."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from conch_load.config import Length, WorkloadConfig
from conch_load.workloads.base import Ask
from conch_load.workloads.tokens import Tokens


class LengthsWorkload:
    """Prompts of random words, no two with a prefix in common: a prefix cache finds nothing.

    Args:
        config: kind fixed or distribution.
        seed: of the run.
        tokens: counts.
        salt: of the run: see RunConfig.
    """

    times_ns = None

    def __init__(self, config: WorkloadConfig, seed: int, tokens: Tokens, salt: str = "") -> None:
        self._config, self._seed, self._tokens, self._salt = config, seed, tokens, salt
        self._input, self._output = Length.parse(config.input_tokens), Length.parse(config.output_tokens)

    def lengths(self, index: int) -> tuple[int, int]:
        """Prompt and output tokens of the request at ``index``."""
        rng = random.Random(f"{self._seed}/lengths/{index}")
        return self._input.draw(rng), self._output.draw(rng)

    def ask(self, index: int) -> Ask:
        prompt, output = self.lengths(index)
        text = self._tokens.words(prompt, f"{self._seed}/words/{index}", self._salt)
        return Ask(index, text, None, prompt, output)

    def chain(self, number: int) -> Sequence[int]:
        return (number,)

    def longest(self, count: int) -> tuple[int, int, int]:
        if self._config.kind == "fixed":
            return 0, *self.lengths(0)
        return max(((i, *self.lengths(i)) for i in range(max(1, count))), key=lambda one: one[1] + one[2])

    def describe(self) -> Mapping[str, object]:
        return {"kind": self._config.kind, "input_tokens": str(self._input), "output_tokens": str(self._output),
                "force_output": self._config.force_output}  # fmt: skip
