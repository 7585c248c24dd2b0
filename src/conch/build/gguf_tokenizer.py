"""The tokenizer that a GGUF file carries, as a `tokenizers` Tokenizer that gives the same token ids.

A GGUF file holds tokens, merges or scores, and the name of its pre-tokenizer. What the name stands for is known to
whoever trained the model: only names whose meaning is certain are converted, and others are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from conch.build.gguf import GgufHeader
from conch.errors import BuildError
from conch.text.files import TokenizerMeta

_CONTROL, _USER_DEFINED = 3, 4
_METASPACE = "\u2581"
_MEND = "Use the model's Hugging Face folder, whose tokenizer.json needs no conversion"

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class _PreTokenizer:
    """What a tokenizer.ggml.pre name stands for, in its model's own tokenizer.json.

    Attributes:
        split: regular expression that cuts the text; None: GPT-2's.
        individual_digits: every digit is cut off first.
        nfc: the text is normalized.
        ignore_merges: a word that is a token is taken whole, whatever the merges say.
        add_bos: what holds when the file does not say.
    """

    split: str | None = None
    individual_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def build(self) -> Any:
        parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if self.individual_digits else []
        if self.split is not None:
            parts.append(pre_tokenizers.Split(Regex(self.split), behavior="isolated", invert=False))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.split is None))
        return pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]


_LLAMA3 = _PreTokenizer(split=_LLAMA3_SPLIT, ignore_merges=True, add_bos=True)
PRE_TOKENIZERS = {
    "gpt-2": _PreTokenizer(),
    "smollm": _PreTokenizer(individual_digits=True),
    "qwen2": _PreTokenizer(split=_QWEN2_SPLIT, nfc=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer and what belongs to it.

    Attributes:
        tokenizer: encodes and decodes.
        chat_template: Jinja text; None where the model has none.
        meta: ids and sizes.
    """

    tokenizer: Tokenizer
    chat_template: str | None
    meta: TokenizerMeta


def convert_gguf_tokenizer(header: GgufHeader) -> ConvertedTokenizer:
    """Convert the tokenizer of a GGUF file.

    Raises:
        BuildError: a key is missing or damaged, or the tokenizer is of a kind that cannot be converted with certainty.
    """
    keys = _Keys(header)
    tokens = keys.strings("tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        raise BuildError("tokenizer.ggml.tokens must be distinct, and some are there twice", mend=_MEND)
    kind = keys.text("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer, add_bos = _byte_level(keys, tokens)
    elif kind == "llama":
        tokenizer, add_bos = _sentencepiece(keys, tokens)
    else:
        raise BuildError(f"tokenizer.ggml.model must be gpt2 or llama, got {kind!r}", mend=_MEND)
    _add_tokens(tokenizer, tokens, keys.numbers("tokenizer.ggml.token_type", len(tokens)))
    adds_special = _set_post_processor(tokenizer, keys, tokens, add_bos=add_bos)
    meta = _meta(keys, tokens, adds_special=adds_special)
    return ConvertedTokenizer(tokenizer, keys.optional_text("tokenizer.chat_template"), meta)


def _byte_level(keys: _Keys, tokens: list[str]) -> tuple[Tokenizer, bool]:
    pre = keys.text("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise BuildError(f"tokenizer.ggml.pre must be one of {', '.join(PRE_TOKENIZERS)}, got {pre!r}", mend=_MEND)
    known = PRE_TOKENIZERS[pre]
    merges = [tuple(merge.split(" ")) for merge in keys.strings("tokenizer.ggml.merges")]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(_bpe(vocab, merges, ignore_merges=known.ignore_merges))
    if known.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = known.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, known.add_bos


def _sentencepiece(keys: _Keys, tokens: list[str]) -> tuple[Tokenizer, bool]:
    scores = keys.numbers("tokenizer.ggml.scores", len(tokens))
    vocab = {token: index for index, token in enumerate(tokens)}
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocab]
    if missing:
        raise BuildError(f"tokenizer.ggml.tokens must have a token for every byte; {missing[0]} is missing", mend=_MEND)
    if keys.flag("tokenizer.ggml.remove_extra_whitespaces", False):
        raise BuildError("tokenizer.ggml.remove_extra_whitespaces must be false, got true", mend=_MEND)
    unknown = keys.token_id("tokenizer.ggml.unknown_token_id", len(tokens))
    bpe = _bpe(
        vocab, _merges_from_scores(vocab, scores), byte_fallback=True, fuse_unk=True,
        unk_token=None if unknown is None else tokens[unknown],
    )  # fmt: skip
    tokenizer = Tokenizer(bpe)
    prefix = keys.flag("tokenizer.ggml.add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend(_METASPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _METASPACE)])
    parts: list[Any] = [decoders.Replace(_METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        parts.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer, True


def _merges_from_scores(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two, best score first; ties by the ids of the parts, left first."""
    found = []
    for token, index in vocab.items():
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in pairs if left in vocab and right in vocab]
        found += [(-scores[index], vocab[left], vocab[right], left, right) for left, right in known]
    return [(left, right) for *_, left, right in sorted(found)]


def _bpe(vocab: dict[str, int], merges: list[Any], **options: Any) -> Any:
    try:
        return models.BPE(vocab, merges, **options)
    except Exception as error:  # the library raises plain Exception
        raise BuildError(f"tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {error}", mend=_MEND) from None


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Tokens that are cut out of a text before anything else happens to it, found as they are written."""
    for index, kind in enumerate(types):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(tokens[index], normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(tokens[index], normalized=False, special=False)])


def _set_post_processor(tokenizer: Tokenizer, keys: _Keys, tokens: list[str], *, add_bos: bool) -> bool:
    """Add BOS and EOS where the file asks for them; returns whether anything is added."""
    before, after = [], []
    if keys.flag("tokenizer.ggml.add_bos_token", add_bos):
        before = [keys.required_token_id("tokenizer.ggml.bos_token_id", len(tokens))]
    if keys.flag("tokenizer.ggml.add_eos_token", False):
        after = [keys.required_token_id("tokenizer.ggml.eos_token_id", len(tokens))]
    if not before and not after:
        return False
    single = [*(tokens[i] for i in before), "$A", *(tokens[i] for i in after)]
    special = [(tokens[i], i) for i in (*before, *after)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return True


def _meta(keys: _Keys, tokens: list[str], *, adds_special: bool) -> TokenizerMeta:
    size = len(tokens)
    eos = keys.required_token_id("tokenizer.ggml.eos_token_id", size)
    bos = keys.token_id("tokenizer.ggml.bos_token_id", size)
    pad = keys.token_id("tokenizer.ggml.padding_token_id", size)
    others = (keys.token_id(f"tokenizer.ggml.{name}_token_id", size) for name in ("eot", "eom"))
    return TokenizerMeta(
        vocab_size=size,
        max_position_embeddings=keys.positive(f"{keys.architecture}.context_length"),
        eos_token_ids=tuple(dict.fromkeys([eos, *(i for i in others if i is not None)])),
        pad_token_id=eos if pad is None else pad,
        bos_token="" if bos is None else tokens[bos],
        eos_token=tokens[eos],
        add_special_tokens=adds_special,
    )


class _Keys:
    """Typed access to the metadata; every message names the key, the rule and the value."""

    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        self.architecture = header.architecture

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if value is None:
            raise BuildError(f"the GGUF file has no key {key}", mend=_MEND)
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not _is_unicode(value):
            raise BuildError(f"{key} must be UTF-8 text, got {value!r:.60}")
        return value

    def strings(self, key: str) -> list[str]:
        value = self._metadata.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and _is_unicode(v) for v in value):
            raise BuildError(f"{key} must be a list of UTF-8 texts", mend=_MEND)
        return value

    def numbers(self, key: str, count: int) -> list[Any]:
        value = self._metadata.get(key)
        if not isinstance(value, list) or len(value) != count or any(isinstance(v, str) for v in value):
            raise BuildError(f"{key} must be a list of {count} numbers, one for each token", mend=_MEND)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(key, default)
        if not isinstance(value, bool):
            raise BuildError(f"{key} must be a boolean, got {value!r:.60}")
        return value

    def positive(self, key: str) -> int:
        value = self._metadata.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BuildError(f"{key} must be a number >= 1, got {value!r:.60}")
        return value

    def token_id(self, key: str, count: int) -> int | None:
        value = self._metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
            raise BuildError(f"{key} must be a token id in [0, {count}), got {value!r:.60}")
        return value

    def required_token_id(self, key: str, count: int) -> int:
        value = self.token_id(key, count)
        if value is None:
            raise BuildError(f"the GGUF file has no key {key}", mend=_MEND)
        return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
