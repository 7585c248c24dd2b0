"""The tokenizer behind Triton's API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_tokenizers import END, small_tokenizer
from triton_side import Refused, Rows, Stages

from conch.contract import ALIASES, CONTROLS, NAMES_ELSEWHERE, TOKENIZER, TRITON_PARAMETERS

CHAT = json.dumps([{"role": "user", "content": "hi"}]).encode()


def ids_of(text: str) -> list[int]:
    ids: list[int] = small_tokenizer("single_bytes").encode(text).ids
    return ids


def test_text_becomes_ids(stages: Stages) -> None:
    (output,) = stages.tokenize({"text_input": "héllo".encode()})
    assert output["input_ids"].tolist() == [ids_of("héllo")]
    assert output["input_lengths"].tolist() == [[6]]
    assert set(output) == {"input_ids", "input_lengths", "send_receipts"}


def test_messages_become_ids(stages: Stages) -> None:
    (output,) = stages.tokenize({"messages": CHAT})
    assert output["input_ids"].tolist() == [ids_of("<|user|>hi<|end|><|assistant|>")]


def test_rows_are_padded_at_the_end(stages: Stages) -> None:
    (output,) = stages.tokenize({"text_input": Rows([b"abc", b"a"]), "max_tokens": Rows([1, 2])})
    assert output["input_ids"].tolist() == [ids_of("abc"), [*ids_of("a"), END, END]]
    assert output["input_lengths"].tolist() == [[3], [1]]
    assert output["request_output_len"].tolist() == [[1], [2]]


def test_controls_are_handed_on_as_they_came_under_the_engine_s_names(stages: Stages) -> None:
    values = {
        "max_tokens": 5, "min_tokens": 2, "temperature": 0.5, "top_k": 9, "top_p": 0.25, "min_p": 0.125,
        "repetition_penalty": 1.5, "presence_penalty": -1.0, "frequency_penalty": 2.0, "seed": 2**64 - 1,
        "end_id": 5, "pad_id": 6, "stop_words": np.array([[b"a", b""]], dtype=np.object_), "stream": True,
        "return_num_input_tokens": True, "return_num_output_tokens": True, "exclude_input_in_output": True,
        "bad_words": np.array([[b""]], dtype=np.object_), "beam_width": 1, "num_return_sequences": 1,
        "length_penalty": 1.0, "early_stopping": False, "no_repeat_ngram_size": 0, "guided_decoding_guide_type": b"",
        "guided_decoding_guide": b"", "stop": False, "priority": -3, "timeout_ms": 1000, "return_log_probs": False,
        "return_token_ids": True, "return_perf_metrics": True, "return_context_logits": False,
        "return_generation_logits": False,
    }  # fmt: skip
    (output,) = stages.tokenize({"text_input": b"x", **values})
    assert {c.name for c in CONTROLS} - set(values) == {"lora_task_id"}
    for control in CONTROLS:
        if control.name not in values:
            continue
        sent = values[control.name]
        expected = sent.tolist() if isinstance(sent, np.ndarray) else [[sent]]
        assert output[control.engine_name].tolist() == expected, control.name


@pytest.mark.parametrize(("alias", "name"), [(alias, control.name) for alias, control in ALIASES.items()])
def test_aliases(stages: Stages, alias: str, name: str) -> None:
    (output,) = stages.tokenize({"text_input": b"x", alias: 3})
    assert output[ALIASES[alias].engine_name].tolist() == [[3]]
    (refused,) = stages.tokenize({"text_input": b"x", alias: 3, name: 3})
    assert refused == Refused("INVALID_ARGUMENT", f"{alias} is another name of {name}: send one of them, not both")


def test_an_alias_is_checked_like_its_control(stages: Stages) -> None:
    (refused,) = stages.tokenize({"text_input": b"x", "min_length": -1})
    assert refused == Refused("INVALID_ARGUMENT", "min_tokens must be a finite number >= 0, got -1")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, "neither"),
        ({"max_tokens": 3}, "neither"),
        ({"text_input": b"x", "messages": CHAT}, "both"),
    ],
)
def test_exactly_one_of_text_and_messages(stages: Stages, values: dict[str, Any], found: str) -> None:
    (refused,) = stages.tokenize(values)
    assert refused == Refused("INVALID_ARGUMENT", f"exactly one of text_input and messages must be given, got {found}")


def test_an_empty_text_beside_messages_is_none(stages: Stages) -> None:
    assert stages.tokenize({"text_input": b"", "messages": CHAT})[0].keys() == {
        "input_ids", "input_lengths", "send_receipts",
    }  # fmt: skip
    assert stages.tokenize({"text_input": b""}) == [Refused("INVALID_ARGUMENT", "text_input must not be empty")]


def test_empty_messages_beside_a_text_are_none(stages: Stages) -> None:
    (output,) = stages.tokenize({"text_input": b"x", "messages": b""})
    assert output["input_ids"].tolist() == [ids_of("x")]


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("max_token", "; did you mean max_tokens?"),
        ("temprature", "; did you mean temperature?"),
        ("message", "; did you mean messages?"),
        ("INPUT_TEXT", "; did you mean text_input?"),
        ("max_completion_tokens", "; did you mean max_tokens?"),
        ("ignore_eos", "; did you mean end_id?"),
        ("xyzzy", ""),
    ],
)
def test_a_field_that_nobody_knows_is_refused(stages: Stages, field: str, hint: str) -> None:
    (refused,) = stages.tokenize({"text_input": b"x"}, parameters={"timeout": 1, field: 3})
    assert refused == Refused("INVALID_ARGUMENT", f"unknown field {field}{hint}")


def test_names_elsewhere_are_of_fields_that_exist() -> None:
    known = {t.name for t in TOKENIZER.inputs}
    assert set(NAMES_ELSEWHERE.values()) <= known
    assert not set(NAMES_ELSEWHERE) & known


def test_triton_s_own_parameters_are_no_fields(stages: Stages) -> None:
    (output,) = stages.tokenize({"text_input": b"x"}, parameters=dict.fromkeys(TRITON_PARAMETERS, 1))
    assert not isinstance(output, Refused)


def test_a_bad_request_leaves_its_batch_alone(stages: Stages) -> None:
    bad: list[dict[str, Any]] = [
        {}, {"text_input": b"\xff"}, {"text_input": b"x", "top_p": 2.0}, {"messages": b"[}"},
        {"text_input": b"x" * 999}, {"text_input": b"x", "lora_task_id": 3},
    ]  # fmt: skip
    batch = [good for one in bad for good in ({"text_input": b"ok"}, one)] + [{"text_input": b"ok"}]
    outputs = stages.tokenize(*batch)
    assert [isinstance(output, Refused) for output in outputs] == [False, True] * len(bad) + [False]
    assert [output["input_ids"].tolist() for output in outputs[::2]] == [[ids_of("ok")]] * (len(bad) + 1)
    assert [output.code for output in outputs[1::2]] == ["INVALID_ARGUMENT"] * (len(bad) - 1) + ["UNSUPPORTED"]


def test_a_bad_row_is_named(stages: Stages) -> None:
    values = {"text_input": Rows([b"a", b"b"]), "top_k": Rows([1, -2])}
    assert stages.tokenize(values) == [Refused("INVALID_ARGUMENT", "row 1: top_k must be a finite number >= 0, got -2")]


def test_the_context_is_checked_before_the_engine_is_asked(stages: Stages) -> None:
    (refused,) = stages.tokenize({"text_input": b"x" * 200, "max_tokens": 57})
    assert refused == Refused(
        "INVALID_ARGUMENT", "max_tokens must be at most 56 (context of 256 tokens less 200 of the prompt), got 57"
    )


def test_a_model_without_a_template_says_so(make_stages: Callable[..., Stages]) -> None:
    (refused,) = make_stages(template=False).tokenize({"messages": CHAT})
    assert refused == Refused("UNSUPPORTED", "messages need a chat template, and this model has none; send text_input")


def test_a_fault_of_ours_is_said_without_its_cause(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(stages.tokenizer, "_tokenizer", type("Broken", (), {"encode_text": fail})())
    outputs = stages.tokenize({"text_input": b"x"}, {})
    assert outputs[0] == Refused("INTERNAL", "internal error (RuntimeError); the cause is in the server's log")
    assert outputs[1].code == "INVALID_ARGUMENT"
