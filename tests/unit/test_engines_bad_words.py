"""The grammar of texts without bad words: against a search, by a reader of our own and by the engine's."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from property_settings import examples

from conch.engines.bad_words import MAX_STATES, bad_words_grammar
from conch.engines.guide_compiler import GuideCompiler, structured_output
from conch.engines.guide_model import GuideVocabulary
from conch.errors import InvalidArgumentError
from conch.sampling import Guide

_CHOICE = re.compile(r"\[((?:[^\]])*)\] s(\d+)")
_CLASS = re.compile(r"\\U([0-9a-f]{8})(?:-\\U([0-9a-f]{8}))?")
LETTERS = st.text("ab", min_size=1, max_size=5)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


def accepts(grammar: str, text: str) -> bool:
    """Whether the right-linear grammar has the text: follows the rules, character by character."""
    rules = {}
    for line in grammar.splitlines()[1:]:
        name, body = line.split(" ::= ")
        assert body.startswith('"" | '), "an answer may end anywhere"
        rules[name] = [
            ([(int(a, 16), int(b or a, 16)) for a, b in _CLASS.findall(chars)], f"s{target}")
            for chars, target in _CHOICE.findall(body)
        ]
    state = "s0"
    for char in text:
        targets = [t for ranges, t in rules[state] if any(a <= ord(char) <= b for a, b in ranges)]
        assert len(targets) <= 1, "the rules are ambiguous"
        if not targets:
            return False
        state = targets[0]
    return True


@examples(200)
@given(st.lists(LETTERS, min_size=1, max_size=4), st.text("abc", max_size=12))
@example(["aab"], "aaab")
@example(["abab", "ba"], "aab")
@example(["aabb", "ab"], "aab")
def test_words_over_few_letters(words: list[str], text: str) -> None:
    assert accepts(bad_words_grammar(words), text) == (not any(word in text for word in words))


@examples(200)
@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.lists(ANY_TEXT, max_size=3), st.data())
def test_words_of_any_characters(words: list[str], parts: list[str], data: st.DataObject) -> None:
    text = "".join(data.draw(st.permutations([*parts, *data.draw(st.lists(st.sampled_from(words), max_size=2))])))
    assert accepts(bad_words_grammar(words), text) == (not any(word in text for word in words))


WORDS = [
    "Paris", "Par ", "s in", 'q"\\', "\n- a", "é😀", "é", "ж", "]^-[", "\0", "a\tb", "aab", "abaa", "\U0010ffff", "'",
]  # fmt: skip
TEXTS = [
    "Paris", "paris", "Par", "Pari", "Par\u00a0", "Par is in", "is i", 'q"\\', 'q"', "\\", "\n- a", "\n-a", "é😀", "é",
    "e", "ä", "😀", "ж", "з", "жж", "]^-[", "]^-", "^", "-", "[", "]", "\0", "\1", "a\tb", "a b", "aab", "aaab", "aaa",
    "abaa", "ababaa", "ab", "\U0010ffff", "\U0010fffe", "'", "it’s", "\r\n", "\x7f", "ÿ", "Ā",
]  # fmt: skip
# Where UTF-8 gets longer, where its bytes carry over, and characters between.
EDGES = (0x80, 0x4E2D, 0xD000, 0xFFFF, 0x10000, 0x40000)
TEXTS += [chr(code) for edge in EDGES for code in (edge - 1, edge, edge + 1)] + ["\ud7ff", "\ue000", "\U00100000"]


@pytest.mark.parametrize("words", [WORDS, ["aaab", "\0"], *(["a", chr(c)] for c in EDGES)], ids=ascii)
def test_the_engine_reads_the_grammar_in_the_same_way(words: list[str]) -> None:
    """Each text is a token; what is drawn again and again is what the grammar lets in."""
    import openvino
    import openvino_genai

    texts = list(dict.fromkeys(TEXTS))
    vocabulary = GuideVocabulary((*(text.encode() for text in texts), b""), len(texts))
    tokenizer = vocabulary.open_tokenizer()
    GuideCompiler(vocabulary, tokenizer).compile(Guide("ebnf_grammar", bad_words_grammar(words)))
    configs = []
    for seed in range(800):
        config = openvino_genai.GenerationConfig(max_new_tokens=1, do_sample=True, rng_seed=seed)
        config.eos_token_id, config.stop_token_ids = vocabulary.end_id, {vocabulary.end_id}
        config.structured_output_config = structured_output(Guide("ebnf_grammar", bad_words_grammar(words)))
        configs.append(config)
    prompt = openvino.Tensor(np.zeros((1, 1), dtype=np.int64))
    answers = vocabulary.open_pipeline(tokenizer).generate([prompt] * len(configs), configs)
    drawn = {answer.m_generation_ids[0][0] for answer in answers}
    allowed = {index for index, text in enumerate(texts) if not any(word in text for word in words)}
    assert drawn == {*allowed, vocabulary.end_id}


def test_too_many_characters_are_refused_before_they_cost_anything() -> None:
    assert bad_words_grammar(["a" * (MAX_STATES - 1)])
    with pytest.raises(InvalidArgumentError) as caught:
        bad_words_grammar(["a" * 300, "a" * 20 + "b" * 300])
    assert str(caught.value) == (
        "bad_words must have fewer than 512 characters in all (a beginning that two share counts once), got 600"
    )
