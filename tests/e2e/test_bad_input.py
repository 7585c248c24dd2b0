"""Bad input over gRPC and HTTP: a clear error, and nobody else is hurt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from server_processes import Server
from triton_calls import (
    GREEDY,
    TIMEOUT_S,
    Reply,
    arrays_of,
    assert_clean,
    chat,
    column,
    generate,
    infer,
    message_of,
    read,
)

from conch.contract import DETOKENIZER, ENGINE, ENSEMBLE, PIPELINE

pytestmark = pytest.mark.e2e

CONTEXT = 8192
VOCABULARY = 49152
INVALID = "INVALID_ARGUMENT: "
GOOD = {"text_input": "Once upon a time", "max_tokens": 3}
# Long enough to be under way while others are refused, and alone in its batch: so its answer may not change at all.
BYSTANDER = {"text_input": "Once upon a time", "max_tokens": 24, "end_id": -1, "stream": True, **GREEDY}


@pytest.fixture(scope="module")
def undisturbed(stub: Any) -> str:
    """The answer to BYSTANDER when nobody else asks."""
    reply = infer(stub, ENSEMBLE.name, BYSTANDER)
    assert not reply.error
    return reply.text


@pytest.fixture
def bystander(stub: Any, undisturbed: str) -> Iterator[None]:
    """A good request under way during the test: it ends as if alone. After it the server answers at once."""
    call = stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of(BYSTANDER))]), timeout=TIMEOUT_S)
    first = next(call)
    yield
    reply = read(call)
    begun = first.infer_response.raw_output_contents[0][4:].decode()
    assert (begun + reply.text, reply.error) == (undisturbed, "")
    assert len(infer(stub, ENSEMBLE.name, GOOD).text) > 1


@dataclass(frozen=True)
class Case:
    """One bad request that both protocols can carry, and what is said to it: field, rule and value."""

    name: str
    fields: dict[str, Any]
    said: str
    model: str = ENSEMBLE.name


def _text(**fields: Any) -> dict[str, Any]:
    return {"text_input": "Hello", **fields}


def _messages(value: str) -> dict[str, Any]:
    return {"messages": value, "max_tokens": 4}


def _engine(ids: list[int], length: int | None = None, **fields: Any) -> dict[str, Any]:
    return {"input_ids": np.array([ids], np.int32), "input_lengths": length or len(ids), **fields}


def _out_of_range() -> Iterator[Case]:
    ranges = {
        "temperature": ("in [0, 100]", [-0.5, 100.5]),
        "top_p": ("in [0, 1]", [-0.5, 1.5]),
        "min_p": ("in [0, 1]", [-0.5, 1.5]),
        "repetition_penalty": ("in (0, 10]", [0.0, -1.0, 10.5]),
        "presence_penalty": ("in [-2, 2]", [-2.5, 2.5]),
        "frequency_penalty": ("in [-2, 2]", [-2.5, 2.5]),
    }
    for field, (rule, values) in ranges.items():
        for value in (*values, math.nan, math.inf, -math.inf):
            said = f"{field} must be {rule}, got {value:g}"
            yield Case(f"{field}={value:g}", _text(max_tokens=4, **{field: value}), said)
    for field, low, value in (("top_k", 0, -1), ("min_tokens", 0, -3), ("end_id", -1, -2), ("pad_id", 0, -1)):
        said = f"{field} must be a finite number >= {low}, got {value}"
        yield Case(f"{field}={value}", _text(max_tokens=4, **{field: value}), said)
    for field in ("end_id", "pad_id"):
        said = f"{field} must be < {VOCABULARY}, got {VOCABULARY}"
        yield Case(f"{field} beyond", _text(max_tokens=4, **{field: VOCABULARY}), said)


CASES = (
    Case("empty prompt", {"text_input": "", "max_tokens": 4}, "text_input must not be empty"),
    Case("no prompt", {"max_tokens": 4}, "exactly one of text_input and messages must be given, got neither"),
    Case("both", {**_text(), "messages": chat("Hi")}, "exactly one of text_input and messages must be given, got both"),
    Case("prompt too long", _text(text_input="word " * 9000),
         f"text_input must have at most {CONTEXT - 1} tokens, got 9001"),
    Case("prompt huge", _text(text_input="x" * 3_000_000),
         f"text_input must have at most {CONTEXT - 1} tokens, got at least "),
    Case("chat too long", _messages(chat("word " * 9000)), f"messages must have at most {CONTEXT - 1} tokens, got 90"),
    Case("max_tokens=0", _text(max_tokens=0), "max_tokens must be a finite number >= 1, got 0"),
    Case("max_tokens=-7", _text(max_tokens=-7), "max_tokens must be a finite number >= 1, got -7"),
    Case("max_tokens beyond", _text(max_tokens=CONTEXT),
         f"max_tokens must be at most {CONTEXT - 1} (context of {CONTEXT} tokens less 1 of the prompt), got {CONTEXT}"),
    Case("min beyond max", _text(max_tokens=4, min_tokens=5), "min_tokens must be at most max_tokens (4), got 5"),
    Case("no adapters", _text(max_tokens=4, lora_task_id=np.array([[3]], np.uint64)), "lora_task_id is not supported"),
    Case("both names", _text(max_tokens=4, seed=1, random_seed=1), "random_seed is another name of seed"),
    Case("stop word too long", _text(max_tokens=4, stop_words=["x" * 257]),
         "stop_words must have at most 256 characters each, got 257"),
    Case("too many stop words", _text(max_tokens=4, stop_words=[f"x{i}" for i in range(17)]),
         "stop_words must be at most 16 words, got 17"),
    Case("messages: no JSON", _messages("{"), "messages must be a JSON list of {role, content}: "),
    Case("messages: nested", _messages("[" * 100_000), "messages must be a JSON list of {role, content}: "),
    Case("messages: empty", _messages("[]"), "messages must be a JSON list with at least one message, got []"),
    Case("messages: object", _messages('{"role": "user"}'), "messages must be a JSON list with at least one message"),
    Case("messages: string", _messages('["Hi"]'), 'messages[0] must be an object with role and content, got "Hi"'),
    Case("messages: no content", _messages('[{"role": "user"}]'), "messages[0].content must be a string, got null"),
    Case("messages: number", _messages('[{"role": "user", "content": 3}]'),
         "messages[0].content must be a string, got 3"),
    Case("messages: role", _messages('[{"role": "robot", "content": "x"}]'),
         'messages[0].role must be one of system, user, assistant, got "robot"'),
    Case("messages: key", _messages('[{"role": "user", "content": "x", "name": "y"}]'),
         'messages[0] must have the keys role and content only, got "name"'),
    Case("messages: surrogate", _messages('[{"role": "user", "content": "\\ud800"}]'),
         "messages[0].content must be valid Unicode, got a lone surrogate"),
    Case("engine: id beyond", _engine([1, VOCABULARY]), f"input_ids must be in [0, {VOCABULARY}), got {VOCABULARY}",
         ENGINE.name),
    Case("engine: id negative", _engine([1, -1]), f"input_ids must be in [0, {VOCABULARY}), got -1", ENGINE.name),
    Case("engine: length", _engine([1, 2], 3), "input_lengths must be in [1, 2], got 3", ENGINE.name),
    Case("engine: too long", _engine([1] * CONTEXT), f"input_ids must have at most {CONTEXT - 1} tokens, got {CONTEXT}",
         ENGINE.name),
    Case("engine: max_tokens", _engine([1], request_output_len=0), "max_tokens must be a finite number >= 1, got 0",
         ENGINE.name),
    Case("pipeline: empty", {"INPUT_TEXT": "", "max_tokens": 4}, "must not be empty", PIPELINE.name),
    *_out_of_range(),
)  # fmt: skip


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_is_refused_by_field_rule_and_value(server: Server, stub: Any, case: Case) -> None:
    code = "UNSUPPORTED: " if "lora_task_id" in case.said else INVALID
    body = {n: v.reshape(-1).tolist() if isinstance(v, np.ndarray) else v for n, v in case.fields.items()}
    replies = [infer(stub, case.model, case.fields), generate(server, case.model, body)]
    replies += [infer(stub, case.model, {**case.fields, "stream": True}) for _ in range(case.model == ENSEMBLE.name)]
    for reply in replies:
        assert code in reply.error
        assert case.said in reply.error
        assert reply.responses == []
        assert reply.status in ("OK", 400)  # over gRPC errors come in the stream
        assert_clean(reply.error)


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("stream", [False, True])
def test_invalid_utf8(server: Server, stub: Any, stream: bool) -> None:
    for field in ("text_input", "messages"):
        over_grpc = infer(stub, ENSEMBLE.name, {field: b"ab\xff", "max_tokens": 4, "stream": stream})
        body = b'{"' + field.encode() + b'": "ab\xff", "max_tokens": 4}'
        for reply in (over_grpc, generate(server, ENSEMBLE.name, body, stream)):
            assert f"{INVALID}{field} must be valid UTF-8, got byte 0xff at offset 2" in reply.error
            assert reply.status in ("OK", 400)
    reply = infer(stub, ENSEMBLE.name, {**GOOD, "stop_words": np.array([[b"ok", b"\xfe"]], np.object_)})
    assert f"{INVALID}stop_words must be valid UTF-8, got byte 0xfe at offset 0" in reply.error


@pytest.mark.usefixtures("bystander")
def test_an_unknown_model(server: Server, stub: Any) -> None:
    over_grpc, over_http = infer(stub, "nope", GOOD), generate(server, "nope", GOOD)
    assert over_grpc.error == over_http.error == "Request for unknown model: 'nope' is not found"
    assert over_http.status == 404


@pytest.mark.usefixtures("bystander")
def test_an_unknown_field(server: Server, stub: Any) -> None:
    """Over HTTP, Triton hands unknown fields on as parameters; over gRPC they are tensors, and Triton refuses those."""
    for stream in (False, True):
        reply = generate(server, ENSEMBLE.name, {**GOOD, "max_token": 5}, stream)
        assert f"{INVALID}unknown field max_token; did you mean max_tokens?" in reply.error
        assert reply.status == 400
    assert "unknown field foo" in generate(server, ENSEMBLE.name, {**GOOD, "foo": 5}).error
    inside = generate(server, ENSEMBLE.name, {**GOOD, "parameters": {"temprature": 1.0}})
    assert "unknown field temprature; did you mean temperature?" in inside.error
    other = generate(server, PIPELINE.name, {**GOOD})
    assert "unknown field text_input; did you mean INPUT_TEXT?" in other.error
    engine = generate(server, ENGINE.name, {"input_ids": [1], "input_lengths": 1, "max_tokens": 5})
    assert f"{INVALID}unknown field max_tokens; did you mean request_output_len?" in engine.error
    ids = {"output_ids": [[1]], "sequence_length": [1]}
    detokenizer = generate(server, DETOKENIZER.name, {**ids, "context_id": 5})
    assert f"{INVALID}unknown field context_id; did you mean context_ids?" in detokenizer.error
    two = {"output_ids": np.array([[[1], [1]]], np.int32), "sequence_length": np.array([[1]], np.int32)}
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message_of(DETOKENIZER.name, arrays_of(two)), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "sequence_length must have the shape [1, 2]" in refused.value.details()
    assert infer(stub, ENSEMBLE.name, {**GOOD, "max_token": 5}).error == (
        "unexpected inference input 'max_token' for model 'ensemble'"
    )
    message = message_of(ENSEMBLE.name, arrays_of(GOOD))
    message.parameters["max_token"].int64_param = 5
    reply = read(stub.ModelStreamInfer(iter([message]), timeout=TIMEOUT_S))
    assert f"{INVALID}unknown field max_token; did you mean max_tokens?" in reply.error


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_tokens": np.array([[8]], np.int64)}, "input 'max_tokens' data-type is 'INT64'"),
        ({"temperature": np.array([[1.0]], np.float64)}, "input 'temperature' data-type is 'FP64'"),
        ({"text_input": np.array([[1]], np.int32)}, "input 'text_input' data-type is 'INT32'"),
        ({"max_tokens": np.array([8], np.int32)}, "unexpected shape for input 'max_tokens'"),
        ({"max_tokens": np.array([[8, 8]], np.int32)}, "unexpected shape for input 'max_tokens'"),
        ({"text_input": column("a", "b")}, "batch size does not match other inputs"),
        ({"text_input": column(*["a"] * 33), "max_tokens": column(*[1] * 33)}, "batch-size must be <= 32"),
    ],
)
def test_a_wrong_dtype_or_shape_is_refused_by_triton(stub: Any, change: dict[str, Any], said: str) -> None:
    reply = infer(stub, ENSEMBLE.name, {**GOOD, **change})
    assert said in reply.error
    assert_clean(reply.error)


@pytest.mark.usefixtures("bystander")
def test_a_missing_input_of_the_engine(server: Server, stub: Any) -> None:
    for reply in (infer(stub, ENGINE.name, {"input_lengths": 1}), generate(server, ENGINE.name, {"input_lengths": 1})):
        assert "missing required input(s) ['input_ids']" in reply.error


@pytest.mark.usefixtures("bystander")
def test_one_bad_row_is_named(stub: Any) -> None:
    rows = {"text_input": column("good", "", "good"), "max_tokens": column(2, 2, 2)}
    assert f"{INVALID}row 1: text_input must not be empty" in infer(stub, ENSEMBLE.name, rows).error
    ids = {"input_ids": np.array([[1, 2], [3, -4]], np.int32), "input_lengths": column(2, 2)}
    assert f"{INVALID}row 1: input_ids must be in" in infer(stub, ENGINE.name, ids).error
    mixed = {"text_input": column("good", "good"), "stream": column(True, False)}
    assert f"{INVALID}stream must be the same for every row" in infer(stub, ENSEMBLE.name, mixed).error


@pytest.mark.usefixtures("bystander")
def test_bytes_that_do_not_fit_their_tensor(stub: Any) -> None:
    def send(**change: Any) -> Reply:
        message = message_of(ENSEMBLE.name, arrays_of(GOOD))
        message.raw_input_contents[change["at"]] = change["data"]
        return read(stub.ModelStreamInfer(iter([message]), timeout=TIMEOUT_S))

    assert "incomplete string" in send(at=0, data=b"\xff\xff\x00\x00ab").error
    assert "Expected 4, got 2" in send(at=1, data=b"ab").error
    message = message_of(ENSEMBLE.name, arrays_of(GOOD))
    del message.raw_input_contents[1]
    assert "max_tokens" in read(stub.ModelStreamInfer(iter([message]), timeout=TIMEOUT_S)).error


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        b'{"text_input": "a", "temperature": 1e400}',
        b'{"text_input": "a", "max_tokens": "8"}',
        b'{"text_input": "a", "max_tokens": 1.5}',
        b'{"text_input": "a", "seed": -1}',
        b'{"text_input": "a", "stream": "yes"}',
        b'{"text_input": 5}',
        b'{"messages": [{"role": "user", "content": "x"}]}',
        b'{"text_input": "\\ud800"}',
        b'{"text_input": "a',
        b"[]",
        b"",
    ],
)
def test_what_tritons_json_reader_refuses_is_a_500(server: Server, body: bytes, stream: bool) -> None:
    """Triton 2.51 refuses such a body before Conch sees it, with the status of a server's fault."""
    reply = generate(server, ENSEMBLE.name, body, stream)
    assert reply.status == 500
    assert_clean(reply.error)


def test_an_integer_beyond_its_dtype_is_wrapped_by_tritons_json_reader(server: Server) -> None:
    """Triton 2.51 hands on the lower 32 bits: Conch cannot tell that more was asked for."""
    body = {**GOOD, "max_tokens": 2**32 + 4, "end_id": -1, "return_num_output_tokens": True}
    assert generate(server, ENSEMBLE.name, body).responses[0]["num_output_tokens"] == 4
    reply = generate(server, ENSEMBLE.name, {**GOOD, "max_tokens": 2**31})
    assert "max_tokens must be a finite number >= 1, got -2" in reply.error


@pytest.mark.usefixtures("bystander")
def test_a_stream_through_a_call_that_cannot_carry_it(server: Server, stub: Any) -> None:
    """generate has one response, and unary gRPC none for a model that may stream."""
    reply = generate(server, ENSEMBLE.name, {**GOOD, "stream": True, "end_id": -1})
    assert "use generate stream" in reply.error
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message_of(ENSEMBLE.name, arrays_of(GOOD)), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
