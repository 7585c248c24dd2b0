"""Controls of a request: defaults, ranges, and what they mean together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples

from conch.contract import CONTROLS, LENGTH_PENALTY, NO_REPEAT_NGRAM_SIZE, DType
from conch.errors import ConchError, InvalidArgumentError, UnsupportedError
from conch.sampling import Guide, Limits, SamplingParams, check_values, resolve
from conch.spec import Runtime

LIMITS = Limits(
    vocab_size=1000,
    max_input_len=90,
    max_seq_len=100,
    default_max_tokens=20,
    eos_token_ids=(2, 7),
    pad_token_id=3,
    max_stop_words=3,
    max_stop_word_chars=5,
    max_sequences=8,
    max_guide_bytes=1000,
    runtime=Runtime.OPENVINO,
)


def refusal(values: dict[str, Any], input_len: int = 10, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        resolve(values, input_len, limits)
    return str(caught.value)


def test_defaults() -> None:
    assert resolve({}, 10, LIMITS) == SamplingParams(
        max_tokens=20,
        min_tokens=0,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        seed=None,
        end_ids=(2, 7),
        pad_id=3,
        stop_words=(),
        stream=False,
        return_num_input_tokens=False,
        return_num_output_tokens=False,
    )


def test_every_control_arrives() -> None:
    values = {
        "max_tokens": 5, "min_tokens": 2, "temperature": 0.5, "top_k": 9, "top_p": 0.25, "min_p": 0.125,
        "repetition_penalty": 1.5, "presence_penalty": -1.0, "frequency_penalty": 2.0, "seed": 2**64 - 1,
        "end_id": 7, "pad_id": 6, "stop_words": ["ä".encode(), b"b"], "stream": True, "return_num_input_tokens": True,
        "return_num_output_tokens": True, "exclude_input_in_output": True, "bad_words": [b"x", b"", b"x"],
        "priority": -3, "timeout_ms": 1000, "return_log_probs": True, "return_token_ids": True,
        "return_perf_metrics": True, "return_context_logits": False, "return_generation_logits": False, "stop": False,
    }  # fmt: skip
    params = resolve(values, 10, LIMITS)
    for name, value in values.items():
        if hasattr(params, name) and name not in ("bad_words", "stop_words"):
            assert getattr(params, name) == value, name
    assert params.end_ids == (7,)
    assert (params.stop_words, params.bad_words) == (("ä", "b"), ("x",))
    beams = {
        "beam_width": 4, "num_return_sequences": 2, "length_penalty": 1.5, "early_stopping": True,
        "no_repeat_ngram_size": 3,
    }  # fmt: skip
    params = resolve(beams, 10, LIMITS)
    assert (params.beam_width, params.num_sequences, params.length_penalty) == (4, 2, 1.5)
    assert (params.early_stopping, params.no_repeat_ngram_size) == (True, 3)
    guide = {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": "ä+".encode()}
    assert resolve(guide, 10, LIMITS).guide == Guide("regex", "ä+")
    assert {*values, *beams, *guide} == {c.name for c in CONTROLS} - {"lora_task_id"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam_width": 9}, "beam_width must be at most 8, got 9"),
        ({"num_return_sequences": 9, "temperature": 1.0}, "num_return_sequences must be at most 8, got 9"),
        ({"beam_width": 2, "stream": True}, "beam_width must be 1 when stream is true, got 2"),
        (
            {"num_return_sequences": 2, "temperature": 1.0, "stream": True},
            "num_return_sequences must be 1 when stream is true, got 2",
        ),
        ({"beam_width": 2, "num_return_sequences": 3}, "num_return_sequences must be at most beam_width (2), got 3"),
        (
            {"beam_width": 2, "temperature": 0.5},
            "beam_width must be 1 where the request asks to sample (temperature, top_k, top_p or min_p), got 2",
        ),
        (
            {"num_return_sequences": 2},
            "num_return_sequences must be 1 in greedy decoding, which has one answer; ask to sample (temperature), or "
            "set beam_width; got 2",
        ),
        ({"length_penalty": 2.0}, "length_penalty needs beam_width > 1, got 2"),
        ({"early_stopping": True}, "early_stopping needs beam_width > 1, got True"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size needs beam_width > 1, got 2"),
        (
            {"guided_decoding_guide": b"a"},
            "guided_decoding_guide needs guided_decoding_guide_type: one of json, json_schema, regex, ebnf_grammar",
        ),
        (
            {"guided_decoding_guide_type": b"yaml"},
            "guided_decoding_guide_type must be one of json, json_schema, regex, ebnf_grammar, got 'yaml'",
        ),
        (
            {"guided_decoding_guide_type": b"json", "guided_decoding_guide": b"{}"},
            "guided_decoding_guide must be empty when guided_decoding_guide_type is json",
        ),
        (
            {"guided_decoding_guide_type": b"regex"},
            "guided_decoding_guide must not be empty when guided_decoding_guide_type is regex",
        ),
        (
            {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"a" * 1001},
            "guided_decoding_guide must have at most 1000 bytes, got 1001",
        ),
        (
            {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"a\xff"},
            "guided_decoding_guide must be valid UTF-8, got byte 0xff at offset 1",
        ),
        (
            {"guided_decoding_guide_type": b"json", "bad_words": [b"x"]},
            "bad_words must be empty when guided_decoding_guide_type is set",
        ),
        (
            {"guided_decoding_guide_type": b"json", "end_id": -1},
            "end_id must not be -1 when guided_decoding_guide_type is set: a guide has an end",
        ),
        (
            {"guided_decoding_guide_type": b"json", "beam_width": 2},
            "beam_width must be 1 when guided_decoding_guide_type is set, got 2",
        ),
        (
            {"guided_decoding_guide_type": b"json", "num_return_sequences": 2, "temperature": 1.0},
            "num_return_sequences must be 1 when guided_decoding_guide_type is set, got 2",
        ),
        (
            {"guided_decoding_guide_type": b"json", "min_tokens": 3},
            "min_tokens must be 0 when guided_decoding_guide_type is set (what it asks for may be shorter), got 3",
        ),
        (
            {"guided_decoding_guide_type": b"json", "end_id": 5},
            "end_id must be one of the model's own (2, 7) when guided_decoding_guide_type is set, got 5",
        ),
        ({"bad_words": [b"x"], "beam_width": 2}, "beam_width must be 1 when bad_words is set, got 2"),
        (
            {"bad_words": [b"x"], "num_return_sequences": 2, "temperature": 1.0},
            "num_return_sequences must be 1 when bad_words is set, got 2",
        ),
        (
            {"bad_words": [b"x"], "end_id": 5},
            "end_id must be one of the model's own (2, 7) when bad_words is set, got 5",
        ),
        ({"bad_words": [b"x" * 17]}, "bad_words must have at most 5 characters each, got 17"),
        ({"timeout_ms": 0}, "timeout_ms must be a finite number >= 1, got 0"),
        (
            {"lora_task_id": 1},
            "lora_task_id is not supported by the runtime openvino: it has one set of adapters for all requests of a "
            "batch",
        ),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidArgumentError, UnsupportedError)) as caught:
        resolve(values, 10, LIMITS)
    assert str(caught.value) == message


def test_a_runtime_refuses_what_it_cannot_do_and_takes_what_asks_for_nothing() -> None:
    echo = replace(LIMITS, runtime=Runtime.ECHO)
    neutral = {"beam_width": 1, "length_penalty": 1.0, "bad_words": [b""], "return_log_probs": False}
    assert resolve(neutral, 10, echo) == resolve({}, 10, echo)
    with pytest.raises(UnsupportedError, match=r"^beam_width is not supported by the runtime echo: it has no model$"):
        resolve({"beam_width": 2}, 10, echo)


@pytest.mark.parametrize(
    ("values", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0.0}, 0.0),
        ({"temperature": -0.0}, 0.0),
        ({"temperature": 0.7}, 0.7),
        ({"top_k": 1}, 0.0),
        ({"top_k": 1, "temperature": 0.7}, 0.0),
        ({"top_p": 0.0, "temperature": 0.7}, 0.0),
        ({"temperature": 0.0, "top_k": 50, "top_p": 0.9}, 0.0),
        ({"top_k": 2}, 1.0),
        ({"top_p": 0.9}, 1.0),
        ({"min_p": 0.1}, 1.0),
        ({"min_p": 1.0, "temperature": 0.7}, 0.0),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0.0}, 0.0),
        ({"seed": 7}, 0.0),
    ],
)
def test_temperature_and_greedy(values: dict[str, Any], temperature: float) -> None:
    params = resolve(values, 10, LIMITS)
    assert params.temperature == temperature
    assert params.greedy == (temperature == 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be a finite number >= 1, got 0"),
        ({"max_tokens": -(2**31)}, "max_tokens must be a finite number >= 1, got -2147483648"),
        ({"min_tokens": -1}, "min_tokens must be a finite number >= 0, got -1"),
        ({"temperature": -0.5}, "temperature must be in [0, 100], got -0.5"),
        ({"temperature": 100.5}, "temperature must be in [0, 100], got 100.5"),
        ({"temperature": math.nan}, "temperature must be in [0, 100], got nan"),
        ({"temperature": math.inf}, "temperature must be in [0, 100], got inf"),
        ({"top_k": -1234567}, "top_k must be a finite number >= 0, got -1234567"),
        ({"top_p": 1.5}, "top_p must be in [0, 1], got 1.5"),
        ({"top_p": math.nan}, "top_p must be in [0, 1], got nan"),
        ({"min_p": -0.25}, "min_p must be in [0, 1], got -0.25"),
        ({"min_p": math.inf}, "min_p must be in [0, 1], got inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be in (0, 10], got 0"),
        ({"repetition_penalty": 11.0}, "repetition_penalty must be in (0, 10], got 11"),
        ({"repetition_penalty": -math.inf}, "repetition_penalty must be in (0, 10], got -inf"),
        ({"presence_penalty": 2.5}, "presence_penalty must be in [-2, 2], got 2.5"),
        ({"frequency_penalty": -2.5}, "frequency_penalty must be in [-2, 2], got -2.5"),
        ({"end_id": -2}, "end_id must be a finite number >= -1, got -2"),
        ({"end_id": 1000}, "end_id must be < 1000, got 1000"),
        ({"pad_id": -1}, "pad_id must be a finite number >= 0, got -1"),
        ({"pad_id": 12345678}, "pad_id must be < 1000, got 12345678"),
        ({"stop_words": [b"\xff"]}, "stop_words must be valid UTF-8, got byte 0xff at offset 0"),
        ({"stop_words": [b"123456"]}, "stop_words must have at most 5 characters each, got 6"),
        ({"stop_words": [b"1", b"2", b"3", b"4"]}, "stop_words must be at most 3 words, got 4"),
        (
            {"max_tokens": 91},
            "max_tokens must be at most 90 (context of 100 tokens less 10 of the prompt), got 91",
        ),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens must be at most max_tokens (5), got 6"),
        ({"min_tokens": 21}, "min_tokens must be at most max_tokens (20), got 21"),
    ],
)
def test_a_value_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    assert refusal(values) == message


@pytest.mark.parametrize("control", [c for c in CONTROLS if c.allowed is not None], ids=lambda c: c.name)
def test_the_ends_of_every_range(control: Any) -> None:
    low, high = control.allowed.low, control.allowed.high
    step = 1 if control.dtype is DType.INT32 else 1e-3
    limits = replace(LIMITS, max_seq_len=1 << 30)
    needed = {"beam_width": 2} if control in (LENGTH_PENALTY, NO_REPEAT_NGRAM_SIZE) else {}
    if control.allowed.low_open:
        assert refusal({**needed, control.name: low}, limits=limits)
    else:
        check_values({**needed, control.name: low}, limits)
        assert refusal({**needed, control.name: low - step}, limits=limits)
    if high != math.inf:
        check_values({**needed, control.name: high}, limits)
        assert refusal({**needed, control.name: high + step}, limits=limits)


def test_the_context_bounds_prompt_and_answer() -> None:
    assert resolve({}, 95, LIMITS).max_tokens == 5
    assert resolve({"max_tokens": 1}, 99, LIMITS).max_tokens == 1
    expected = "the prompt must leave room for one token in a context of 100, got {} tokens"
    assert refusal({}, 100) == expected.format(100)
    assert refusal({}, 101) == expected.format(101)


def test_end_ids() -> None:
    assert resolve({"end_id": -1}, 10, LIMITS).end_ids == ()
    assert resolve({"end_id": 0}, 10, LIMITS).end_ids == (0,)


def test_empty_and_repeated_stop_words_are_none() -> None:
    assert resolve({"stop_words": [b""]}, 10, LIMITS).stop_words == ()
    assert resolve({"stop_words": []}, 10, LIMITS).stop_words == ()
    assert resolve({"stop_words": [b"a", b"", b"b", b"a", b"c", b"a"]}, 10, LIMITS).stop_words == ("a", "b", "c")


def test_a_stop_word_is_measured_in_characters() -> None:
    assert resolve({"stop_words": ["😀😀😀😀😀".encode()]}, 10, LIMITS).stop_words == ("😀😀😀😀😀",)


@pytest.mark.parametrize(("stream", "repeats"), [(False, True), (True, False)])
def test_the_prompt_is_repeated_where_that_is_asked_for_but_in_no_stream(stream: bool, repeats: bool) -> None:
    assert resolve({"exclude_input_in_output": False, "stream": stream}, 10, LIMITS).repeat_prompt == repeats
    assert not resolve({"stream": stream}, 10, LIMITS).repeat_prompt


NUMBERS = {
    DType.INT32: st.integers(-(2**31), 2**31 - 1), DType.FP32: st.floats(width=32), DType.BOOL: st.booleans(),
    DType.UINT64: st.integers(0, 2**64 - 1), DType.BYTES: st.lists(st.binary(max_size=8), max_size=5),
}  # fmt: skip
GUIDES = st.sampled_from([b"", b"json", b"regex", b"a+", b"\xff"])


def _values_of(control: Any) -> Any:
    return GUIDES if control.name.startswith("guided") else NUMBERS[control.dtype]


@examples(300)
@given(
    st.fixed_dictionaries({}, optional={c.name: _values_of(c) for c in CONTROLS}),
    st.integers(1, 120),
)
def test_whatever_is_sent_is_consistent_or_refused(values: dict[str, Any], input_len: int) -> None:
    try:
        params = resolve(values, input_len, LIMITS)
    except ConchError:
        return
    assert 1 <= params.max_tokens <= LIMITS.max_seq_len - input_len
    assert 0 <= params.min_tokens <= params.max_tokens
    assert math.isfinite(params.temperature)
    assert params.temperature >= 0
    assert all(0 <= i < LIMITS.vocab_size for i in (*params.end_ids, params.pad_id))
    assert len(params.stop_words) <= LIMITS.max_stop_words
    assert all(params.stop_words)
