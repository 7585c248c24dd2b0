"""A tokenizer whose tokens are single bytes, so that the stub can count without one."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def write_letters_tokenizer(file: Path) -> None:
    """Write a tokenizer.json: one token for each byte of UTF-8, no special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))


def id_of(letter: str) -> int:
    """The id of a letter of ASCII in that tokenizer."""
    return sorted(pre_tokenizers.ByteLevel.alphabet()).index(letter)
