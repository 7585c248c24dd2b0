"""Stop words against a plain search in the whole text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples
from small_tokenizers import FAMILIES, small_tokenizer, token_table
from test_text_decoding import CHUNK_SIZES, PIECES, cut, decode_streamed, decode_whole

from conch.text.stop_words import StopMatcher
from conch.text.token_bytes import TokenBytes


def cut_at_stop_word(text: str, words: Sequence[str]) -> str | None:
    """The rule, on text: cut before the longest stop word that ends where the first one ends. None: there is none."""
    for end in range(1, len(text) + 1):
        complete = [word for word in words if text[:end].endswith(word)]
        if complete:
            return text[: end - max(map(len, complete))]
    return None


def stream(table: TokenBytes, chunks: Sequence[Sequence[int]], words: Sequence[str]) -> tuple[str, bool]:
    """What a client gets of these chunks, and whether a stop word ended it."""
    matcher, released = StopMatcher(table, words), []
    for chunk in chunks:
        release = matcher.feed(chunk)
        released.append(release.ids)
        if release.stopped:
            return decode_streamed(table, released, release.trim_chars), True
    release = matcher.flush()
    released.append(release.ids)
    return decode_streamed(table, released, release.trim_chars), release.stopped


def check(table: TokenBytes, chunks: Sequence[Sequence[int]], words: Sequence[str]) -> None:
    whole = decode_whole(table, [i for chunk in chunks for i in chunk])
    expected = cut_at_stop_word(whole, words)
    text, stopped = stream(table, chunks, words)
    assert stopped == (expected is not None)
    assert text == (whole if expected is None else expected)


ALPHABET = "ab€😀 "
WORDS = st.lists(st.text(ALPHABET + "\ufffd", min_size=1, max_size=4), min_size=1, max_size=4)


@st.composite
def cut_bytes(draw: st.DrawFn) -> tuple[tuple[bytes, ...], list[list[int]]]:
    """A vocabulary and chunks of ids that spell a short text, now and then with a byte that does not belong."""
    data = bytearray(draw(st.text(ALPHABET, max_size=14)).encode())
    for place in draw(st.lists(st.integers(0, 40), max_size=2)):
        if place < len(data):
            data[place] = draw(st.sampled_from((0xFF, 0xE2, 0x80, 0xF0, 0x61)))
    pieces = [b""]
    while data:
        size = draw(st.sampled_from((1, 1, 2, 3, 5)))
        pieces.append(bytes(data[:size]))
        del data[:size]
    ids = [i for n in range(1, len(pieces)) for i in ((n, 0) if n % 5 == 0 else (n,))]
    return tuple(pieces), cut(ids, draw(CHUNK_SIZES))


@examples(800)
@given(cut_bytes(), WORDS, st.booleans())
def test_any_cut_of_any_text(
    case: tuple[tuple[bytes, ...], list[list[int]]], words: list[str], strip_first: bool
) -> None:
    pieces, chunks = case
    check(TokenBytes(pieces, strip_first), chunks, words)


@examples(200)
@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=20), CHUNK_SIZES, WORDS)
def test_any_ids(ids: list[int], sizes: list[int], words: list[str]) -> None:
    check(TokenBytes(PIECES, strip_first=False), cut(ids, sizes), words)


@pytest.mark.parametrize("family", FAMILIES)
@examples(60)
@given(data=st.data(), sizes=CHUNK_SIZES)
def test_words_taken_from_the_text_of_real_tokenizers(family: str, data: st.DataObject, sizes: list[int]) -> None:
    text = data.draw(st.text("the people €日😀.\n", min_size=1, max_size=40))
    ids = small_tokenizer(family).encode(text, add_special_tokens=False).ids
    table = token_table(family)
    whole = decode_whole(table, ids)
    start = data.draw(st.integers(0, max(0, len(whole) - 1)))
    word = whole[start : start + data.draw(st.integers(1, 6))]
    check(table, cut(ids, sizes), [word] if word else ["x"])


@pytest.mark.parametrize(
    ("pieces", "words", "text"),
    [
        ([b"one", b" tw", b"o th", b"ree"], ["two"], "one "),  # across tokens
        ([b"one two three"], ["two"], "one "),  # inside a token
        ([b"ab", b"ab", b"ac"], ["abac"], "ab"),  # a prefix that turned out to be none
        ([b"abcd"], ["bcd", "abcd", "d"], ""),  # end at the same character: the longest
        ([b"abcd"], ["bc", "abcd"], "a"),  # the one that is complete first
        ([b"\xf0\x9f", b"\x98", b"\x80!"], ["😀"], ""),  # across a character's bytes
        ([b"\xf0\x9f"], ["\ufffd"], ""),  # the end of the answer makes it one
        ([b"stop"], ["stop"], ""),
        ([b"sto"], ["stop"], "sto"),
    ],
)  # fmt: skip
def test_examples(pieces: list[bytes], words: list[str], text: str) -> None:
    table = TokenBytes(tuple(pieces), strip_first=False)
    for chunks in ([[n] for n in range(len(pieces))], [list(range(len(pieces)))]):
        assert stream(table, chunks, words)[0] == text


def test_only_what_may_belong_to_a_stop_word_is_held_back() -> None:
    table = TokenBytes((b"a ", b"\n", b"\nU", b"ser:"), strip_first=False)
    matcher = StopMatcher(table, ["\n\nUser:"])
    assert matcher.feed([0]).ids == [0]
    assert matcher.feed([1]).ids == []
    assert matcher.feed([0]).ids == [1, 0]
    assert matcher.feed([1]).ids == matcher.feed([2]).ids == []
    release = matcher.feed([3])
    assert (release.stopped, release.ids) == (True, [])
