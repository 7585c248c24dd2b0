"""Ids to text: against the tokenizers library, and chunk by chunk against the whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from corpus import texts
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples
from small_tokenizers import END, FAMILIES, small_tokenizer, token_table, write_tokenizer

from conch.errors import InvalidArgumentError, RepositoryError
from conch.text.detokenizer import ContextTracker, decode_chunk, pending_bytes
from conch.text.files import TOKENIZER_FILE
from conch.text.token_bytes import TokenBytes

# Tokens of a vocabulary for which every cut of every text is thinkable.
PIECES = (
    b"", *(bytes([b]) for b in range(256)), "€".encode(), "😀".encode()[:2], "😀".encode()[2:], "a€".encode()[:3],
    b" the", b"  ", "é".encode() + "€".encode()[:1], b"\xff\xf0\x9f", "日本".encode(),
)  # fmt: skip
UTF8_PARTS = st.sampled_from((*b"abc\xe2\x82\xac\xf0\x9f", *range(0x80, 0x90), *range(0xC0, 0x100)))
TOKEN_IDS = st.lists(st.one_of(st.integers(0, len(PIECES) - 1), UTF8_PARTS.map(lambda byte: 1 + byte)), max_size=24)


def decode_whole(table: TokenBytes, ids: Sequence[int]) -> str:
    """All ids in one final chunk."""
    return decode_chunk(table, (), ids, final=True)


def decode_streamed(table: TokenBytes, chunks: Sequence[Sequence[int]], trim_chars: int = 0) -> str:
    """Chunk by chunk, each decoded with nothing but its context, as the stages do it."""
    tracker = ContextTracker(table)
    text = ""
    for index, chunk in enumerate(chunks):
        final = index == len(chunks) - 1
        piece = decode_chunk(table, tracker.context, chunk, final=final)
        text += piece[: len(piece) - trim_chars] if final else piece
        tracker.advance(chunk)
        assert len(tracker.context) <= 4
    return text


def cut(ids: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Cut ids into chunks of these sizes, over and over; the last one may be empty."""
    chunks: list[list[int]] = []
    start = 0
    while start < len(ids):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(list(ids[start : start + size]))
        start += size
    return [*chunks, []] if len(ids) % 2 else chunks or [[]]


CHUNK_SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=8)


@examples(500)
@given(TOKEN_IDS, CHUNK_SIZES, st.booleans())
def test_chunks_joined_are_the_whole_for_any_bytes_and_any_cut(
    ids: list[int], sizes: list[int], strip_first: bool
) -> None:
    table = TokenBytes(PIECES, strip_first)
    data = b"".join(PIECES[i] for i in ids)
    expected = (data.removeprefix(b" ") if strip_first else data).decode("utf-8", "replace")
    assert decode_whole(table, ids) == expected
    assert decode_streamed(table, cut(ids, sizes)) == expected


@examples(300)
@given(st.binary(max_size=12))
def test_pending_bytes_are_the_beginning_of_one_character(data: bytes) -> None:
    pending = pending_bytes(data)
    assert len(pending) <= 3
    assert data.endswith(pending)
    # A continuation makes a character of it, and without it nothing is pending any more.
    assert not pending or data.decode("utf-8", "replace").endswith("\ufffd")
    assert pending_bytes(data[: len(data) - len(pending)] + b"a") == b""
    lead = bytes([0xC3]) if not pending else b""
    assert pending_bytes(data + lead) == (pending or lead)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_equals_the_library_over_the_corpus(family: str) -> None:
    tokenizer, table = small_tokenizer(family), token_table(family)
    for name, text in texts():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert decode_whole(table, ids) == tokenizer.decode(ids, skip_special_tokens=True), name
        assert decode_streamed(table, [[i] for i in ids] or [[]]) == decode_whole(table, ids), name


@pytest.mark.parametrize("family", FAMILIES)
@examples(100)
@given(text=st.text(max_size=60), sizes=CHUNK_SIZES)
def test_decoding_equals_the_library_for_any_text(family: str, text: str, sizes: list[int]) -> None:
    tokenizer, table = small_tokenizer(family), token_table(family)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert decode_whole(table, ids) == expected
    assert decode_streamed(table, cut(ids, sizes)) == expected


@pytest.mark.parametrize("family", FAMILIES)
@examples(100)
@given(data=st.data(), sizes=CHUNK_SIZES)
def test_chunks_joined_are_the_whole_for_any_ids(family: str, data: st.DataObject, sizes: list[int]) -> None:
    table = token_table(family)
    ids = data.draw(st.lists(st.integers(0, len(table) - 1), max_size=30))
    whole = decode_whole(table, ids)
    assert decode_streamed(table, cut(ids, sizes)) == whole
    if family in ("byte_level", "single_bytes"):  # the library too decodes any ids by maximal subparts
        assert whole == small_tokenizer(family).decode(ids, skip_special_tokens=True)


def test_byte_fallback_keeps_what_is_well_formed_around_a_malformed_byte() -> None:
    tokenizer, table = small_tokenizer("byte_fallback"), token_table("byte_fallback")
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[f"<0x{byte:02X}>"] for byte in ("€".encode() + b"\xff" + "€".encode())]
    assert decode_whole(table, ids) == "€\ufffd€"


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_add_nothing(family: str) -> None:
    table = token_table(family)
    ids = small_tokenizer(family).encode("the people", add_special_tokens=False).ids
    with_specials = [END, *ids[:1], END, *ids[1:], END]
    assert decode_whole(table, with_specials) == decode_whole(table, ids)
    assert decode_streamed(table, [[i] for i in with_specials]) == decode_whole(table, ids)


def test_an_added_token_that_is_not_special_is_text() -> None:
    data = json.loads(small_tokenizer("byte_level").to_str())
    content = "<thïnk>"  # a character that is a byte in the alphabet, and one that is not
    added = {**data["added_tokens"][0], "id": 700, "content": content, "special": False}
    data["added_tokens"].append(added)
    table = TokenBytes.from_json(data, 701)
    assert table.pieces[700] in (content.encode(), content.encode("latin-1"))
    from tokenizers import Tokenizer

    assert decode_whole(table, [700]) == Tokenizer.from_str(json.dumps(data)).decode([700])


@pytest.mark.parametrize("bad", [-1, len(PIECES), 1 << 31])
@pytest.mark.parametrize("others", [[], [5], [5, 6, 7]])
def test_an_id_out_of_the_vocabulary_is_named(bad: int, others: list[int]) -> None:
    table = TokenBytes(PIECES, strip_first=False)
    with pytest.raises(InvalidArgumentError, match=rf"^token ids must be in \[0, {len(PIECES)}\), got {bad}$"):
        decode_chunk(table, (), [*others, bad], final=True)


def test_ids_beyond_the_tokenizer_but_in_the_model_add_nothing() -> None:
    data = json.loads(small_tokenizer("byte_level").to_str())
    table = TokenBytes.from_json(data, 1024)  # models pad their vocabulary
    assert len(table) == 1024
    assert decode_whole(table, [1023]) == ""


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (None, "must be one of ByteLevel"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, "got BPEDecoder"),
        ({"type": "Sequence", "decoders": [{"type": "CTC"}]}, "step that is not known here"),
        ({"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 2, "stop": 0}]}, "'start': 2"),
        ({"type": "Metaspace", "replacement": "_"}, r"must be U\+2581, got '_'"),
    ],
)
def test_a_decoder_that_is_not_known_is_refused(decoder: object, message: str) -> None:
    data = {**json.loads(small_tokenizer("byte_level").to_str()), "decoder": decoder}
    with pytest.raises(RepositoryError, match=message):
        TokenBytes.from_json(data, 700)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"decoder": {"type": "ByteLevel"}}', '{"decoder": [], "model": {}}']
)
def test_a_damaged_tokenizer_file_is_an_error_of_the_repository(tmp_path: Path, text: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text(text)
    with pytest.raises(RepositoryError, match=TOKENIZER_FILE):
        TokenBytes.load(tmp_path, 700)
