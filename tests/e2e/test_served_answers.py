"""Answers of the real model on the real server: whole and streamed, over gRPC and HTTP, text and ids."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from corpus import SENTENCES
from repeated_words import WORDS, prompt_of, strangers
from server_processes import Server
from triton_calls import GREEDY, Reply, arrays_of, chat, column, generate, infer

from conch.contract import ENSEMBLE, PIPELINE

pytestmark = pytest.mark.e2e

CAPITAL = "What is the capital of France?"
# Shorter than a block of the KV cache: nothing of it is cached, so that in the default, too, it gets the same answer.
STORY = {"text_input": "Once upon a time", "max_tokens": 24}
COUNTS = {"return_num_input_tokens": True, "return_num_output_tokens": True}
TO_THE_END = {**GREEDY, "end_id": -1}


def over_grpc(server: Server, stub: Any, fields: dict[str, Any]) -> Reply:
    return infer(stub, ENSEMBLE.name, fields)


def over_http(server: Server, stub: Any, fields: dict[str, Any]) -> Reply:
    return generate(server, ENSEMBLE.name, fields, stream=fields.get("stream", False))


WAYS = pytest.mark.parametrize("way", [over_grpc, over_http])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@WAYS
@STREAMS
def test_the_capital_of_france(server, stub, way, stream) -> None:
    reply = way(server, stub, {"messages": chat(CAPITAL), "max_tokens": 32, "stream": stream, **COUNTS})
    assert not reply.error
    assert "Paris" in reply.text
    assert reply.finish_reason == "stop"
    assert 1 <= reply.total("num_output_tokens") < 32
    assert (len(reply.responses) > 1) == stream
    assert all("finish_reason" not in response for response in reply.responses[:-1])
    assert reply.responses[0]["num_input_tokens"] > len(CAPITAL.split())


@WAYS
@STREAMS
def test_a_text_prompt_is_taken_as_it_is(server, stub, way, stream) -> None:
    reply = way(server, stub, {"text_input": "The capital of France is", "max_tokens": 4, "stream": stream, **GREEDY})
    assert reply.text.startswith(" Paris")


@WAYS
def test_an_answer_ends_where_max_tokens_says(server, stub, way) -> None:
    for count in (1, 2, 17):
        fields = {**STORY, **TO_THE_END, "max_tokens": count, **COUNTS, "stream": True}
        reply = way(server, stub, fields)
        assert (reply.finish_reason, reply.total("num_output_tokens")) == ("length", count)


@WAYS
@STREAMS
def test_stop_words_cut_the_answer_before_them(server, stub, way, stream) -> None:
    fields = {**STORY, **TO_THE_END, "max_tokens": 32, "stream": stream}
    full = way(server, stub, fields).text
    for begin, end in ((4, 6), (9, 14), (20, 33)):  # over borders of tokens and words
        word = full[begin:end]
        reply = way(server, stub, {**fields, "stop_words": ["never to be seen", word]})
        assert (reply.text, reply.finish_reason) == (full[: full.index(word)], "stop")


@WAYS
def test_an_empty_stop_word_means_none(server, stub, way) -> None:
    plain = way(server, stub, {**STORY, **TO_THE_END})
    assert way(server, stub, {**STORY, **TO_THE_END, "stop_words": [""]}).text == plain.text


@WAYS
def test_a_seed_gives_the_same_answer_twice(server, stub, way) -> None:
    fields = {**STORY, "temperature": 1.0}
    seeded = [[way(server, stub, {**fields, "seed": seed}).text for _ in range(2)] for seed in (1, 2, 3)]
    assert all(first == second for first, second in seeded)
    assert len({first for first, _ in seeded}) > 1
    assert len({way(server, stub, fields).text for _ in range(3)}) > 1, "without a seed every answer is drawn anew"


def test_min_tokens_keeps_the_answer_from_ending(server, stub) -> None:
    short = infer(stub, ENSEMBLE.name, {"messages": chat(CAPITAL), "max_tokens": 40, **GREEDY, **COUNTS})
    assert short.total("num_output_tokens") < 30
    fields = {"messages": chat(CAPITAL), "max_tokens": 40, "min_tokens": 30, **GREEDY, **COUNTS}
    assert infer(stub, ENSEMBLE.name, fields).total("num_output_tokens") >= 30


def test_both_names_of_a_field_do_the_same(server, stub) -> None:
    fields = {**STORY, "temperature": 1.0}
    assert infer(stub, ENSEMBLE.name, {**fields, "random_seed": 5}).text == infer(
        stub, ENSEMBLE.name, {**fields, "seed": 5}
    ).text


@pytest.mark.parametrize("way", ["grpc", "http"])
@pytest.mark.parametrize("rows", [1, 32])
def test_llama_pipeline_with_rows(server, stub, way, rows) -> None:
    """One request with many prompts: every row gets the answer to its own."""
    words = WORDS[:rows]
    text = column(*map(prompt_of, words))
    fields = {"INPUT_TEXT": text, "max_tokens": column(*[24] * rows), "end_id": column(*[-1] * rows)}
    if way == "grpc":
        (response,) = infer(stub, PIPELINE.name, fields).responses
        assert response["OUTPUT_TEXT"].shape == (rows,)
        assert response["finish_reason"].shape == (rows, 1)
        texts = [data.decode() for data in response["OUTPUT_TEXT"]]
        reasons = {data.decode() for data in response["finish_reason"][:, 0]}
    else:
        body = {name: array[:, 0].tolist() for name, array in fields.items()}
        body["INPUT_TEXT"] = [prompt_of(word) for word in words]
        (response,) = generate(server, PIPELINE.name, body).responses
        texts = np.atleast_1d(response["OUTPUT_TEXT"]).tolist()
        reasons = set(np.atleast_1d(response["finish_reason"]).tolist())
    assert reasons == {"length"}
    assert {word: strangers(word, text) for word, text in zip(words, texts, strict=True) if strangers(word, text)} == {}
    assert all(text.count(word) >= 4 for word, text in zip(words, texts, strict=True))


def test_streamed_rows_say_which_they_are(server, stub) -> None:
    rows = 4
    fields = arrays_of({"text_input": column(*map(prompt_of, WORDS[:rows]))})
    fields |= {"max_tokens": column(*range(8, 8 + rows)), "end_id": column(*[-1] * rows)}
    fields |= {"stream": column(*[True] * rows), "return_num_output_tokens": column(*[True] * rows)}
    reply = infer(stub, ENSEMBLE.name, fields)
    assert not reply.error
    for row, word in enumerate(WORDS[:rows]):
        own = Reply([r for r in reply.responses if r["batch_index"].item() == row])
        assert strangers(word, own.text) == set()
        assert (own.finish_reason, own.total("num_output_tokens")) == ("length", 8 + row)


@STREAMS
def test_the_engine_alone_takes_and_gives_ids(server, stub, tokenizer, stream) -> None:
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False).ids
    engine = {"input_ids": np.array([ids], np.int32), "input_lengths": len(ids), "request_output_len": 12}
    controls = {"temperature": 0.0, "end_id": -1}
    reply = infer(stub, "llama_engine", {**engine, **controls, "streaming": stream})
    assert (len(reply.ids), reply.finish_reason) == (12, "length")
    assert (len(reply.responses) > 1) == stream
    text = {"text_input": "The capital of France is", "max_tokens": 12, **controls}
    assert infer(stub, ENSEMBLE.name, text).text == tokenizer.decode(reply.ids, skip_special_tokens=True)
    padded = {**engine, "input_ids": np.array([[*ids, 7, 7, 7]], np.int32)}
    assert infer(stub, "llama_engine", {**padded, **controls}).ids == reply.ids


def test_the_engine_alone_over_http(server, stub, tokenizer) -> None:
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False).ids
    body = {"input_ids": ids, "input_lengths": len(ids), "request_output_len": 4, "end_id": -1}
    reply = generate(server, "llama_engine", body)
    assert "Paris" in tokenizer.decode(reply.ids)
    assert reply.responses[0]["sequence_length"] == 4


def test_text_is_what_the_tokenizer_says_of_the_ids(deterministic_stub, tokenizer) -> None:
    """On the deterministic server: in the default, a prompt whose beginning is cached may get another answer."""

    def both(script: str) -> tuple[str, str]:
        prompt = f"Repeat: {SENTENCES[script]}\n{SENTENCES[script][:20]}"
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        engine = {"input_ids": np.array([ids], np.int32), "input_lengths": len(ids), "request_output_len": 32}
        said = infer(deterministic_stub, "llama_engine", {**engine, "end_id": -1}).ids
        fields = {"text_input": prompt, "max_tokens": 32, "end_id": -1, "stream": True, "return_num_input_tokens": True}
        reply = infer(deterministic_stub, ENSEMBLE.name, fields)
        assert reply.responses[0]["num_input_tokens"].item() == len(ids)
        return reply.text, tokenizer.decode(said, skip_special_tokens=True)

    scripts = list(SENTENCES)[::3]
    with ThreadPoolExecutor(len(scripts)) as pool:
        answers = dict(zip(scripts, pool.map(both, scripts), strict=True))
    assert {script: texts for script, texts in answers.items() if texts[0] != texts[1]} == {}
