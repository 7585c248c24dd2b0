"""Prompts to ids: what is encoded how, what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import (
    CHAT_TEMPLATE,
    END,
    FAMILIES,
    SPECIALS,
    small_meta,
    small_tokenizer,
    token_table,
    write_tokenizer,
)

from conch.errors import InvalidArgumentError, RepositoryError, UnsupportedError
from conch.text.detokenizer import decode_chunk
from conch.text.files import CHAT_TEMPLATE_FILE, META_FILE, TOKENIZER_FILE, TokenizerMeta
from conch.text.tokenizer import PromptTokenizer

MAX_INPUT_LEN = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of single bytes: as many tokens as bytes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, "single_bytes")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(folder, MAX_INPUT_LEN)


def chat(*turns: tuple[str, str]) -> bytes:
    return json.dumps([{"role": role, "content": content} for role, content in turns]).encode()


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_the_library_s(tmp_path: Path, family: str) -> None:
    write_tokenizer(tmp_path, family)
    text = "Tous les êtres humains\n naissent libres"
    ids = PromptTokenizer(tmp_path, 1000).encode_text(text.encode())
    assert ids == small_tokenizer(family).encode(text, add_special_tokens=False).ids


def test_special_tokens_of_the_post_processor_are_added_to_a_prompt_where_the_meta_says_so(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    for add in (False, True):
        write_tokenizer(tmp_path, "single_bytes")
        small = Tokenizer.from_file(str(tmp_path / TOKENIZER_FILE))
        small.post_processor = processors.TemplateProcessing(single="<|user|> $A", special_tokens=[("<|user|>", 1)])
        small.save(str(tmp_path / TOKENIZER_FILE))
        small_meta(small.get_vocab_size(), add_special_tokens=add).write(tmp_path)
        tokenizer = PromptTokenizer(tmp_path, 100)
        assert (tokenizer.encode_text(b"hi")[0] == 1) == add
        # A chat template writes the beginning itself.
        assert tokenizer.encode_messages(chat(("assistant", "a")))[:1] == [2]


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "single_bytes")
    data = json.loads((tmp_path / TOKENIZER_FILE).read_text())
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|end|>",
    }  # fmt: skip
    (tmp_path / TOKENIZER_FILE).write_text(json.dumps(data))
    assert len(PromptTokenizer(tmp_path, 100).encode_text(b"12345")) == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "text_input must not be empty"),
        (b"ab\xff", "text_input must be valid UTF-8, got byte 0xff at offset 2"),
        (b"\xed\xa0\x80", "text_input must be valid UTF-8, got byte 0xed at offset 0"),
        (b"x" * (MAX_INPUT_LEN + 1), "text_input must have at most 32 tokens, got 33"),
        (b"x" * 1_000_000, "text_input must have at most 32 tokens, got at least "),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(tokenizer: PromptTokenizer, data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        tokenizer.encode_text(data)
    assert str(caught.value).startswith(message)


def test_the_longest_prompt_is_taken(tokenizer: PromptTokenizer) -> None:
    assert len(tokenizer.encode_text(b"x" * MAX_INPUT_LEN)) == MAX_INPUT_LEN


def test_a_prompt_of_special_tokens_is_counted_in_tokens(tokenizer: PromptTokenizer) -> None:
    # Their text is longer than that of any other token.
    assert tokenizer.encode_text((SPECIALS[END] * MAX_INPUT_LEN).encode()) == [END] * MAX_INPUT_LEN


def test_text_that_gives_no_token_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "wordpiece")
    with pytest.raises(InvalidArgumentError, match=r"^text_input must have at least one token, got none$"):
        PromptTokenizer(tmp_path, 10).encode_text(b" ")


def test_messages_become_the_prompt_of_the_template(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.encode_messages(chat(("system", "s"), ("user", "ü")))
    text = "<|system|>s<|end|><|user|>ü<|end|><|assistant|>"
    assert ids == small_tokenizer("single_bytes").encode(text).ids
    assert decode_chunk(token_table("single_bytes"), (), ids, final=True) == "<|system|>sü"


def test_messages_that_are_too_long_are_refused(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^messages must have at most 32 tokens, got 43$"):
        tokenizer.encode_messages(chat(("user", "x" * 40)))


def test_a_model_without_a_template_refuses_messages(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "single_bytes", template=None)
    tokenizer = PromptTokenizer(tmp_path, 10)
    assert len(tokenizer.encode_text(b"hi")) == 2
    with pytest.raises(UnsupportedError, match="need a chat template, and this model has none; send text_input"):
        tokenizer.encode_messages(chat(("user", "hi")))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TOKENIZER_FILE, None),
        (TOKENIZER_FILE, b"{}"),
        (TOKENIZER_FILE, b"\xff"),
        (META_FILE, None),
        (META_FILE, b"[]"),
        (META_FILE, b"{}"),
        (META_FILE, b"7"),
        (CHAT_TEMPLATE_FILE, b"{% for %}"),
        (CHAT_TEMPLATE_FILE, b"\xff"),
    ],
)
def test_a_damaged_folder_is_an_error_of_the_repository(tmp_path: Path, name: str, content: bytes | None) -> None:
    write_tokenizer(tmp_path, "single_bytes")
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RepositoryError):
        PromptTokenizer(tmp_path, 10)


def test_meta_is_read_as_written(tmp_path: Path) -> None:
    meta = write_tokenizer(tmp_path, "single_bytes", CHAT_TEMPLATE)
    assert TokenizerMeta.read(tmp_path) == meta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be >= 1"),
        ({"max_position_embeddings": 1}, "max_position_embeddings >= 2"),
        ({"eos_token_ids": (0, 99)}, r"eos_token_ids must be in \[0, 10\), got 99"),
        ({"pad_token_id": -1}, r"pad_token_id must be in \[0, 10\), got -1"),
    ],
)
def test_meta_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RepositoryError, match=message):
        small_meta(**{"vocab_size": 10, **changes})


def test_meta_with_other_keys_is_refused(tmp_path: Path) -> None:
    meta = write_tokenizer(tmp_path, "single_bytes")
    (tmp_path / META_FILE).write_text(json.dumps({**asdict(meta), "unk_token": "x"}))
    with pytest.raises(RepositoryError, match="keys must be"):
        TokenizerMeta.read(tmp_path)
