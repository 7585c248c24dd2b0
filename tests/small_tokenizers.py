"""Real tokenizers of every supported family, trained on a page of text in many scripts within a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from corpus import CODE, EMOJI, SENTENCES
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from conch.text.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TokenizerMeta
from conch.text.token_bytes import TokenBytes

SPECIALS = ("<|end|>", "<|user|>", "<|assistant|>")
END, USER, ASSISTANT = range(3)
MAX_POSITION_EMBEDDINGS = 256
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_TEXTS = [*SENTENCES.values(), *CODE.values(), *EMOJI.values()]
_BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level() -> Tokenizer:
    """As GPT-2 and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=alphabet, special_tokens=list(SPECIALS), show_progress=False
        ),
    )
    return tokenizer


def _byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral: BPE over U+2581, bytes for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^\u2581])(?=\u2581)"), "isolated")
    latin = [text for text in _TEXTS if text.isascii()]
    tokenizer.train_from_iterator(
        latin,
        trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIALS, *_BYTE_TOKENS], show_progress=False),
    )
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = None  # was for the training alone: no merges across words
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in SPECIALS]
    return Tokenizer.from_str(json.dumps(data))


def _unigram() -> Tokenizer:
    """As T5 and XLM-R: Unigram with Metaspace."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        _TEXTS,
        trainers.UnigramTrainer(
            vocab_size=1200, special_tokens=[*SPECIALS, "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    """As BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        _TEXTS, trainers.WordPieceTrainer(vocab_size=2600, special_tokens=[*SPECIALS, "[UNK]"], show_progress=False)
    )
    return tokenizer


def _single_bytes() -> Tokenizer:
    """Every byte is a token: every character beyond ASCII is split between tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


_FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": _byte_level, "byte_fallback": _byte_fallback, "unigram": _unigram, "wordpiece": _wordpiece,
    "single_bytes": _single_bytes,
}  # fmt: skip
FAMILIES = tuple(_FAMILIES)


@cache
def small_tokenizer(family: str) -> Tokenizer:
    """The tokenizer of one of FAMILIES; ids END, USER and ASSISTANT are its special tokens."""
    return _FAMILIES[family]()


@cache
def token_table(family: str) -> TokenBytes:
    """Its bytes."""
    tokenizer = small_tokenizer(family)
    return TokenBytes.from_json(json.loads(tokenizer.to_str()), tokenizer.get_vocab_size())


def write_tokenizer(folder: Path, family: str = "byte_level", template: str | None = CHAT_TEMPLATE) -> TokenizerMeta:
    """Write the folder of a served tokenizer; made if missing."""
    tokenizer = small_tokenizer(family)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    if template is not None:
        (folder / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")
    meta = small_meta(tokenizer.get_vocab_size())
    meta.write(folder)
    return meta


def small_meta(vocab_size: int, **changes: Any) -> TokenizerMeta:
    """Metadata of a small tokenizer."""
    values = {
        "vocab_size": vocab_size, "max_position_embeddings": MAX_POSITION_EMBEDDINGS, "eos_token_ids": (END,),
        "pad_token_id": END, "bos_token": "", "eos_token": SPECIALS[END], "add_special_tokens": False,
    }  # fmt: skip
    return TokenizerMeta(**{**values, **changes})
