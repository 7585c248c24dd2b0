"""Guided decoding and bad words on a real server: answers are what was asked for, and a bad guide hurts nobody."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from by_design import need
from json_schemas import SCHEMAS
from triton_calls import GREEDY, TIMEOUT_S, Reply, arrays_of, assert_clean, chat, infer, message_of, read

from conch.contract import BAD_WORDS, ENSEMBLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

INVALID = "INVALID_ARGUMENT: "
STORY = "Once upon a time"
# Without the penalty so small a model, where blanks may follow, writes blanks for ever.
ASK_JSON = {"messages": chat("Write one small JSON value."), "max_tokens": 400, "frequency_penalty": 0.6, **GREEDY}


def guide(kind: str, text: str = "") -> dict[str, Any]:
    fields = {"guided_decoding_guide_type": kind}
    return {**fields, "guided_decoding_guide": text} if text else fields


def ask(stub: Any, **fields: Any) -> Reply:
    return infer(stub, ENSEMBLE.name, {"text_input": STORY, "max_tokens": 24, **GREEDY, **fields})


def test_fifty_schemas_at_once(stub: Any) -> None:
    def one(schema: dict[str, Any]) -> Reply:
        return infer(stub, ENSEMBLE.name, {**ASK_JSON, **guide("json_schema", json.dumps(schema))})

    with ThreadPoolExecutor(len(SCHEMAS)) as pool:
        replies = list(pool.map(one, SCHEMAS))
    for schema, reply in zip(SCHEMAS, replies, strict=True):
        assert (reply.error, reply.finish_reason) == ("", "stop"), (schema, reply)
        jsonschema.validate(json.loads(reply.text), schema)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.5, "seed": 3}])
@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        (guide("regex", "(Paris|Rome) is [a-z]{3,10}[.]"), "(Paris|Rome) is [a-z]{3,10}[.]"),
        (guide("regex", "[0-9]{3}-[0-9]{4}"), "[0-9]{3}-[0-9]{4}"),
        (guide("regex", "é{2}日本 ?"), "é{2}日本 ?"),
        (guide("ebnf_grammar", 'root ::= "yes" | "no" | "é😀"'), "yes|no|é😀"),
        (guide("ebnf_grammar", 'root ::= item{1,3}\nitem ::= "<" [a-c]{2} ">"'), "(<[a-c]{2}>){1,3}"),
    ],
)
def test_expressions_and_grammars(
    stub: Any, asked: dict[str, Any], shape: str, sampled: dict[str, Any], stream: bool
) -> None:
    reply = ask(stub, **asked, **sampled, stream=stream)
    assert re.fullmatch(shape, reply.text), reply
    assert reply.finish_reason == "stop"


def test_any_json(stub: Any) -> None:
    reply = infer(stub, ENSEMBLE.name, {**ASK_JSON, **guide("json")})
    assert reply.finish_reason == "stop"
    json.loads(reply.text)


def test_a_guided_answer_that_is_cut_is_the_beginning_of_one(stub: Any) -> None:
    reply = ask(stub, **guide("regex", "[a-z]{200,300}"), max_tokens=5)
    assert reply.finish_reason == "length"
    assert re.fullmatch("[a-z]{5,}", reply.text)


def test_log_probs_and_stop_words_go_with_a_guide(stub: Any) -> None:
    reply = ask(stub, **guide("regex", "[a-z]+ [a-z]+"), stop_words=[" "], return_log_probs=True)
    assert re.fullmatch("[a-z]+", reply.text)
    assert reply.finish_reason == "stop"


BAD = [
    (guide("json_schema", "{"), "json_schema: Failed to parse JSON: syntax error at line 1 near: ."),
    (guide("json_schema", '{"type": "nonsense"}'), 'json_schema: Unsupported type "nonsense"'),
    (guide("json_schema", '{"$ref": "#/nope"}'), 'json_schema: Cannot find field nope in {"$ref":"#\\/nope"}'),
    (guide("json_schema", '{"$ref": "#"}'), "json_schema: it allows no answer at all"),
    (guide("regex", "(("), "regex: Regex parsing error at position 3: The parenthesis is not closed."),
    (guide("regex", "(?<=a)b"), "regex: Regex parsing error at position 3: Lookbehind is not supported yet."),
    (guide("ebnf_grammar", "root ::= x"),
     'ebnf_grammar: EBNF parser error at line 1, column 10: Rule "x" is not defined'),
    (guide("ebnf_grammar", 'root ::= "a" x\nx ::= x "b"'), "ebnf_grammar: it has a place where nothing may follow"),
    (guide("regex", "(" * 20_000 + "a" + ")" * 20_000), "regex: it takes more than "),
]  # fmt: skip


def _deep(levels: int) -> str:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema, "b": {"type": "integer"}}, "required": ["a"]}
    return json.dumps(schema)


COSTLY = [
    guide("regex", "(a{1,1000}){1,1000}"),
    guide("regex", "((a{1,100}){1,100}){1,100}"),
    guide("json_schema", _deep(400)),
    guide("json_schema", '{"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}'),
]


def test_bad_and_costly_guides_are_refused_or_served_and_eight_streams_do_not_notice(deterministic_stub: Any) -> None:
    stub = deterministic_stub

    def stream(number: int) -> str:
        fields = {"text_input": f"{STORY}, in the year {number}", "max_tokens": 150, "end_id": -1, "stream": True}
        message = message_of(ENSEMBLE.name, arrays_of({**fields, **GREEDY}))
        reply = read(stub.ModelStreamInfer(iter([message]), timeout=TIMEOUT_S * 2))
        assert reply.error == ""
        return reply.text

    alone = [stream(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = [pool.submit(stream, number) for number in range(8)]
        for asked, said in BAD:
            reply = ask(stub, **asked)
            kind, _, words = said.partition(": ")
            assert f"{INVALID}guided_decoding_guide cannot be compiled as {kind}: " in reply.error, reply
            assert words in reply.error, reply
            assert_clean(reply.error)
            assert "\n" not in reply.error
            assert "/cpp/" not in reply.error
        for asked in COSTLY:
            reply = ask(stub, **asked)
            if reply.error:
                assert re.search("INVALID_ARGUMENT: guided_decoding_guide .*: it takes more than", reply.error)
            else:
                assert reply.finish_reason in ("stop", "length")
        assert [one.result() for one in together] == alone


def at_random(stub: Any, count: int, **fields: Any) -> list[str]:
    def one(seed: int) -> str:
        reply = ask(stub, temperature=1.0, seed=seed, max_tokens=40, **fields)
        assert reply.error == ""
        return reply.text

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(one, range(count)))


WORDS = [" the", "and", "was a", "She ", ", ", "ing", "\n", "’", "é"]


def test_bad_words_never_come_and_would_have_come(stub: Any) -> None:
    need(stub, BAD_WORDS, ["x"])
    free = at_random(stub, 30)
    assert len({word for word in WORDS for text in free if word in text}) >= 4
    assert sum(any(word in text for word in WORDS) for text in free) > 25
    for text in at_random(stub, 100, bad_words=WORDS):
        assert text
        assert not [word for word in WORDS if word in text], text


def test_bad_words_without_an_end(stub: Any) -> None:
    """end_id -1: the answer goes on past the model's end, and the words stay away there, too."""
    need(stub, BAD_WORDS, ["x"])
    fields = {"messages": chat("What is the capital of France?"), "max_tokens": 120, "end_id": -1, **GREEDY}
    free = infer(stub, ENSEMBLE.name, {**fields, "return_num_output_tokens": True})
    assert "Paris" in free.text
    reply = infer(stub, ENSEMBLE.name, {**fields, "bad_words": ["Paris", "he"], "return_num_output_tokens": True})
    assert (reply.finish_reason, reply.total("num_output_tokens")) == ("length", 120)
    assert "Paris" not in reply.text
    assert "he" not in reply.text


def test_words_that_no_answer_has_change_nothing_but_end_as_well(stub: Any) -> None:
    need(stub, BAD_WORDS, ["x"])
    fields = {"messages": chat("What is the capital of France?"), "max_tokens": 60, **GREEDY}
    free = infer(stub, ENSEMBLE.name, fields)
    reply = infer(stub, ENSEMBLE.name, {**fields, "bad_words": ["zebra", "\0", "]["]})
    assert (reply.text, reply.finish_reason) == (free.text, "stop")


def test_too_many_bad_characters_are_refused(stub: Any) -> None:
    need(stub, BAD_WORDS, ["x"])
    words = [f"{chr(97 + n)}" * 200 for n in range(4)]
    assert f"{INVALID}bad_words must have fewer than 512 characters in all" in ask(stub, bad_words=words).error
