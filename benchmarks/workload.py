"""Prompts of an exact length in tokens, the same for every way of serving."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from conch.text.files import TOKENIZER_FILE


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: UTF-8 text.
        ids: its token ids.
    """

    text: str
    ids: list[int]


class PromptMaker:
    """Random words, each one token with a space in front: text and ids of the same, known length.

    Args:
        tokenizer_dir: folder of the served tokenizer.
    """

    def __init__(self, tokenizer_dir: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_dir / TOKENIZER_FILE))
        vocabulary = self._tokenizer.get_vocab()
        self._words = sorted(t[1:] for t in vocabulary if t.startswith("Ġ") and t[1:].isascii() and t[1:].isalpha())

    def text_of(self, ids: list[int]) -> str:
        """Text of an answer."""
        text: str = self._tokenizer.decode(ids)
        return text

    def make(self, count: int, tokens: int, seed: int) -> list[Prompt]:
        """``count`` prompts of ``tokens`` tokens each; equal seeds give equal prompts."""
        rng = random.Random(seed)
        prompts: list[Prompt] = []
        while len(prompts) < count:
            text = "".join(f" {word}" for word in rng.choices(self._words, k=tokens))
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) == tokens:
                prompts.append(Prompt(text, ids))
        return prompts
