"""The tokenizer of a Hugging Face folder: tokenizer.json as it is, and what the other files say about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from conch.build.gguf_tokenizer import ConvertedTokenizer
from conch.build.huggingface import CONFIG_FILE, read_json
from conch.errors import BuildError, RepositoryError
from conch.text.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TokenizerMeta

_SLOW_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt")


def read_huggingface_tokenizer(folder: Path) -> ConvertedTokenizer:
    """Read the tokenizer of a checkpoint folder.

    Raises:
        BuildError: no tokenizer.json, or one of the files is damaged or does not fit the others.
    """
    tokenizer = _load(folder)
    config = read_json(folder / CONFIG_FILE)
    generation = read_json(folder / "generation_config.json")
    tokenizer_config = read_json(folder / "tokenizer_config.json")
    vocab_size = _number(folder, config, "vocab_size")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= vocab_size:
        raise BuildError(f"{folder}: token ids of {TOKENIZER_FILE} must be < {vocab_size} (vocab_size), got {largest}")
    eos_ids = _eos_ids(tokenizer, config, generation, tokenizer_config)
    if not eos_ids:
        raise BuildError(f"{folder} must say which token ends an answer (eos_token_id of generation_config.json)")
    pad_id = _pad_id(tokenizer, config, generation, tokenizer_config, vocab_size)
    try:
        meta = TokenizerMeta(
            vocab_size=vocab_size,
            max_position_embeddings=_number(folder, config, "max_position_embeddings", "n_positions"),
            eos_token_ids=eos_ids,
            pad_token_id=eos_ids[0] if pad_id is None else pad_id,
            bos_token=_token_text(tokenizer_config, "bos_token"),
            eos_token=_token_text(tokenizer_config, "eos_token"),
            add_special_tokens=len(tokenizer.encode("a").ids)
            != len(tokenizer.encode("a", add_special_tokens=False).ids),
        )
    except RepositoryError as error:
        raise BuildError(f"{folder}: {error.message}") from None
    return ConvertedTokenizer(tokenizer, _chat_template(folder, tokenizer_config), meta)


def _load(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        slow = [name for name in _SLOW_TOKENIZERS if (folder / name).is_file()]
        raise BuildError(
            f"{folder} must hold {TOKENIZER_FILE}" + (f", and holds {slow[0]} only" if slow else ""),
            mend="Write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder), with transformers",
        )
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise BuildError(f"{path} is not a usable tokenizer: {error}") from None
    if tokenizer.get_vocab_size(with_added_tokens=True) == 0:
        raise BuildError(f"{path} must have tokens, and has none")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _chat_template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    path = folder / CHAT_TEMPLATE_FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BuildError(f"{path} cannot be read: {error}") from None
    value = read_json(folder / "chat_template.json").get("chat_template", tokenizer_config.get("chat_template"))
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is not None and not isinstance(value, str):
        raise BuildError(f"chat_template of {folder} must be a text, or a list with one named default")
    return value


def _eos_ids(
    tokenizer: Tokenizer, config: dict[str, Any], generation: dict[str, Any], tokenizer_config: dict[str, Any]
) -> tuple[int, ...]:
    found: list[int] = []
    for source in (generation, config):
        value = source.get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            if isinstance(token_id, int) and token_id not in found:
                found.append(token_id)
    named = tokenizer.token_to_id(_token_text(tokenizer_config, "eos_token"))
    if named is not None and named not in found:
        found.append(named)
    return tuple(found)


def _pad_id(
    tokenizer: Tokenizer,
    config: dict[str, Any],
    generation: dict[str, Any],
    tokenizer_config: dict[str, Any],
    vocab_size: int,
) -> int | None:
    for source in (generation, config):
        value = source.get("pad_token_id")
        if isinstance(value, int) and 0 <= value < vocab_size:  # -1 is in use for "none"
            return value
    return tokenizer.token_to_id(_token_text(tokenizer_config, "pad_token"))


def _token_text(tokenizer_config: dict[str, Any], key: str) -> str:
    value = tokenizer_config.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _number(folder: Path, config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    raise BuildError(
        f"{folder / CONFIG_FILE} must have {' or '.join(names)}, a number > 0, got {config.get(names[0])!r}"
    )
