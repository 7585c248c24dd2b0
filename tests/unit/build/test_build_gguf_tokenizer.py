"""Token ids must equal the model's own, and what cannot be converted with certainty is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import corpus
import pytest
from small_models import SPECIALS, gguf_bytes, small_metadata

from conch.build.gguf import GgufHeader, read_gguf
from conch.build.gguf_tokenizer import PRE_TOKENIZERS, ConvertedTokenizer, convert_gguf_tokenizer
from conch.build.tokenizer_files import check_tokenizer, openvino_differences, write_tokenizer
from conch.errors import BuildError

# SmolLM2 has no token for these bytes. Its own tokenizer.json has no unknown token, so the `tokenizers` library leaves
# them out; llama.cpp does too. OpenVINO GenAI puts <|endoftext|> there, which is a token that ends texts.
WITHOUT_TOKEN = "\x04\x06\x13\x14\x16\x1d"


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> ConvertedTokenizer:
    return convert_gguf_tokenizer(read_gguf(smollm2_gguf))


def small(**changes: Any) -> ConvertedTokenizer:
    return convert_gguf_tokenizer(GgufHeader(small_metadata(**changes), {}))


def test_corpus_is_broad() -> None:
    assert len(corpus.prompts()) >= 200
    names = [name for name, _ in corpus.texts()]
    assert len(names) == len(set(names))


def test_ids_equal_openvinos_over_the_corpus(smollm2: ConvertedTokenizer, smollm2_gguf: Path) -> None:
    import openvino_genai

    reference = openvino_genai.Tokenizer(str(smollm2_gguf))
    compared = 0
    for name, text in corpus.texts():
        if not text or any(char in text for char in WITHOUT_TOKEN):
            continue
        theirs = reference.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        assert smollm2.tokenizer.encode(text, add_special_tokens=False).ids == theirs, name
        compared += 1
    assert compared > 850


def test_every_text_survives(smollm2: ConvertedTokenizer) -> None:
    for name, text in corpus.texts():
        ids = smollm2.tokenizer.encode(text, add_special_tokens=False).ids
        kept = text.translate(dict.fromkeys(map(ord, WITHOUT_TOKEN)))
        assert smollm2.tokenizer.decode(ids, skip_special_tokens=False) == kept, name


@pytest.mark.parametrize("char", WITHOUT_TOKEN)
def test_a_byte_without_token_adds_nothing(smollm2: ConvertedTokenizer, char: str) -> None:
    assert smollm2.tokenizer.encode(char).ids == []


def test_meta_and_special_tokens(smollm2: ConvertedTokenizer) -> None:
    assert smollm2.meta.vocab_size == 49152
    assert smollm2.meta.max_position_embeddings == 8192
    assert smollm2.meta.eos_token_ids == (2,)
    assert (smollm2.meta.bos_token, smollm2.meta.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert not smollm2.meta.add_special_tokens
    assert smollm2.tokenizer.encode("a").ids == smollm2.tokenizer.encode("a", add_special_tokens=False).ids
    for index, token in enumerate(corpus.SPECIALS):
        assert smollm2.tokenizer.encode(f" {token} ").ids.count(index) == 1
    assert smollm2.tokenizer.decode(smollm2.tokenizer.encode("a<|im_end|>").ids) == "a"


def test_chat_prompt_equals_openvinos(smollm2: ConvertedTokenizer, smollm2_gguf: Path, tmp_path: Path) -> None:
    write_tokenizer(smollm2, tmp_path)
    prompt = check_tokenizer(smollm2, tmp_path)
    assert prompt.endswith("<|im_start|>user\nHello, how are you?<|im_end|>\n<|im_start|>assistant\n")
    assert openvino_differences(smollm2_gguf, smollm2.tokenizer, prompt) == []
    assert len(openvino_differences(smollm2_gguf, smollm2.tokenizer, prompt + "x")) == 1
    assert openvino_differences(tmp_path / "none.gguf", smollm2.tokenizer, prompt)[0].startswith(
        "OpenVINO GenAI cannot"
    )


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["hel", "l", "o", "Ġ", "12", "3", "Ċ", "Ċ", "A", "'", "R", "E"]),
        ("smollm", ["hel", "l", "o", "Ġ", "1", "2", "3", "Ċ", "Ċ", "A", "'", "R", "E"]),
        ("qwen2", ["hel", "l", "o", "Ġ", "1", "2", "3", "Ċ", "Ċ", "A", "'", "R", "E"]),
        ("llama-bpe", ["hel", "l", "o", "Ġ", "12", "3", "Ċ", "Ċ", "A", "'", "R", "E"]),
    ],
)
def test_pre_tokenizers(pre: str, expected: list[str]) -> None:
    converted = small(tokenizer__ggml__pre=pre, tokenizer__ggml__add_bos_token=False)
    assert converted.tokenizer.encode("hello 123\n\nA'RE").tokens == expected
    assert converted.tokenizer.decode(converted.tokenizer.encode("hello 123\n\nA'RE").ids) == "hello 123\n\nA'RE"


def test_qwen2_normalizes_and_gpt2_does_not() -> None:
    decomposed = "e\u0301"
    assert small(tokenizer__ggml__pre="qwen2").tokenizer.encode(decomposed).ids == small().tokenizer.encode("é").ids
    assert small().tokenizer.encode(decomposed).ids != small().tokenizer.encode("é").ids


def test_llama3_takes_a_word_that_is_a_token_whole() -> None:
    tokens = [*small_metadata()["tokenizer.ggml.tokens"], "xyz"]
    changes = {"tokenizer__ggml__tokens": tokens, "tokenizer__ggml__token_type": [3, 3] + [1] * (len(tokens) - 2)}
    without_bos = {"tokenizer__ggml__add_bos_token": False}
    assert small(tokenizer__ggml__pre="llama-bpe", **changes, **without_bos).tokenizer.encode("xyz").tokens == ["xyz"]
    assert small(tokenizer__ggml__pre="gpt-2", **changes).tokenizer.encode("xyz").tokens == ["x", "y", "z"]


def test_bos_and_eos() -> None:
    converted = small(tokenizer__ggml__add_bos_token=True, tokenizer__ggml__bos_token_id=1)
    assert converted.tokenizer.encode("he").tokens == ["<|user|>", "he"]
    assert converted.tokenizer.encode("he", add_special_tokens=False).tokens == ["he"]
    assert converted.meta.add_special_tokens
    assert small(tokenizer__ggml__add_eos_token=True).tokenizer.encode("he").tokens == ["he", "<|end|>"]
    with pytest.raises(BuildError, match=r"no key tokenizer\.ggml\.bos_token_id"):
        small(tokenizer__ggml__pre="llama-bpe")  # adds BOS unless it says that it does not


def test_several_ids_end_an_answer() -> None:
    assert small(tokenizer__ggml__eot_token_id=1).meta.eos_token_ids == (0, 1)


def test_user_defined_tokens_are_found_and_shown() -> None:
    types = [3, 4, *[1] * (len(small_metadata()["tokenizer.ggml.tokens"]) - 2)]
    converted = small(tokenizer__ggml__token_type=types)
    assert converted.tokenizer.encode("he<|user|>he").tokens == ["he", SPECIALS[1], "he"]
    assert converted.tokenizer.decode(converted.tokenizer.encode("he<|user|><|end|>").ids) == "he<|user|>"


def sentencepiece_metadata(**changes: Any) -> dict[str, Any]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", "a", "b", "c", "ab", "bc", "▁a", "▁ab"]
    scores = [0.0] * len(pieces) + [-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0]
    return small_metadata(
        tokenizer__ggml__model="llama", tokenizer__ggml__pre="default", tokenizer__ggml__merges=None,
        tokenizer__ggml__tokens=pieces + words, tokenizer__ggml__scores=scores,
        tokenizer__ggml__token_type=[2, 3, 3] + [6] * 256 + [1] * len(words), tokenizer__ggml__bos_token_id=1,
        tokenizer__ggml__eos_token_id=2, tokenizer__ggml__unknown_token_id=0, **changes,
    )  # fmt: skip


def test_sentencepiece() -> None:
    converted = convert_gguf_tokenizer(GgufHeader(sentencepiece_metadata(), {}))
    assert converted.tokenizer.encode("abc").tokens == ["<s>", "▁a", "bc"]  # bc has the better score, then ▁a
    assert converted.tokenizer.encode("ab", add_special_tokens=False).tokens == ["▁ab"]
    assert converted.tokenizer.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    # The space in front is put after a special token, too, as Llama 2's tokenizer.json and llama.cpp do.
    assert converted.tokenizer.encode("a</s>b", add_special_tokens=False).tokens == ["▁a", "</s>", "▁", "b"]
    for text in ("abc", " abc  é\n", "漢"):
        ids = converted.tokenizer.encode(text, add_special_tokens=False).ids
        assert converted.tokenizer.decode(ids, skip_special_tokens=False) == text


def test_sentencepiece_without_prefix() -> None:
    header = GgufHeader(sentencepiece_metadata(tokenizer__ggml__add_space_prefix=False), {})
    converted = convert_gguf_tokenizer(header)
    assert converted.tokenizer.encode("ab", add_special_tokens=False).tokens == ["ab"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__pre": "default"}, r"tokenizer\.ggml\.pre must be one of gpt-2, .*, got 'default'"),
        ({"tokenizer__ggml__pre": "tekken"}, "got 'tekken'"),
        ({"tokenizer__ggml__pre": None}, r"no key tokenizer\.ggml\.pre"),
        ({"tokenizer__ggml__model": "t5"}, "must be gpt2 or llama, got 't5'"),
        ({"tokenizer__ggml__tokens": None}, "must be a list of UTF-8 texts"),
        ({"tokenizer__ggml__tokens": ["a", "\udcff"]}, "must be a list of UTF-8 texts"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "must be distinct"),
        ({"tokenizer__ggml__token_type": [1]}, "one for each token"),
        ({"tokenizer__ggml__merges": ["a zz"]}, "merges do not fit"),
        ({"tokenizer__ggml__merges": ["ab"]}, "merges do not fit"),
        ({"tokenizer__ggml__eos_token_id": 100000}, r"must be a token id in \[0, 261\), got 100000"),
        ({"tokenizer__ggml__eos_token_id": None}, r"no key tokenizer\.ggml\.eos_token_id"),
        ({"llama__context_length": None}, r"llama\.context_length must be a number >= 1, got None"),
        ({"tokenizer__ggml__add_bos_token": 1}, "add_bos_token must be a boolean, got 1"),
        ({"tokenizer__chat_template": 5}, "chat_template must be UTF-8 text, got 5"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no') }}", "cannot be served"),
        ("{% for", "chat template does not compile"),
        ("constant", "must put a user's message into the prompt"),
        ("{{ ''.__class__.__mro__ }}", "cannot be served"),
    ],
)
def test_a_template_that_cannot_be_served_is_refused(template: str, message: str, tmp_path: Path) -> None:
    converted = small(tokenizer__chat_template=template)
    write_tokenizer(converted, tmp_path)
    with pytest.raises(BuildError, match=message):
        check_tokenizer(converted, tmp_path)


def test_a_name_stands_for_what_it_says() -> None:
    assert set(PRE_TOKENIZERS) == {"gpt-2", "smollm", "qwen2", "llama-bpe", "llama3", "llama-v3"}


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(small_metadata()))
    assert convert_gguf_tokenizer(read_gguf(path)).tokenizer.to_str() == small().tokenizer.to_str()
