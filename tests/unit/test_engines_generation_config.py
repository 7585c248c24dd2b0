"""Every control that the openvino runtime honours reaches the attribute of OpenVINO's config that does it."""

from __future__ import annotations

from typing import Any

import pytest
from engine_side import generation_request

from conch.engines.openvino import generation_config


def config_of(**controls: Any) -> Any:
    return generation_config(generation_request(1, [5], **controls).params)


SAMPLED = {"temperature": 0.5}
BEAMS = {"beam_width": 4}


@pytest.mark.parametrize(
    ("controls", "attributes"),
    [
        ({"max_tokens": 77}, {"max_new_tokens": 77}),
        ({"min_tokens": 7}, {"min_new_tokens": 7}),
        ({}, {"eos_token_id": 2, "stop_token_ids": {2}, "ignore_eos": False, "do_sample": False, "num_beams": 1}),
        ({"end_id": 9}, {"eos_token_id": 9, "stop_token_ids": {9}, "ignore_eos": False}),
        ({"end_id": -1}, {"ignore_eos": True}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"presence_penalty": 1.25}, {"presence_penalty": 1.25}),
        ({"frequency_penalty": -0.5}, {"frequency_penalty": -0.5}),
        ({"return_log_probs": True}, {"logprobs": 1}),
        ({"return_log_probs": False}, {"logprobs": 0}),
        (SAMPLED, {"do_sample": True, "temperature": 0.5, "top_p": 1.0, "min_p": 0.0}),
        ({**SAMPLED, "top_k": 11}, {"top_k": 11}),
        ({**SAMPLED, "top_p": 0.75}, {"top_p": 0.75}),
        ({**SAMPLED, "min_p": 0.25}, {"min_p": 0.25}),
        ({**SAMPLED, "seed": 12345}, {"rng_seed": 12345}),
        ({**SAMPLED, "num_return_sequences": 3}, {"num_return_sequences": 3}),
        (BEAMS, {"num_beams": 4, "num_return_sequences": 4, "do_sample": False}),
        ({**BEAMS, "num_return_sequences": 2}, {"num_beams": 4, "num_return_sequences": 2}),
        ({**BEAMS, "length_penalty": -1.5}, {"length_penalty": -1.5}),
        ({**BEAMS, "no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
    ],
)
def test_a_control_reaches_its_attribute(controls: dict[str, Any], attributes: dict[str, Any]) -> None:
    config = config_of(**controls)
    assert {name: getattr(config, name) for name in attributes} == attributes


def test_early_stopping_is_a_rule_of_the_beams() -> None:
    from openvino_genai import StopCriteria

    assert config_of(**BEAMS, early_stopping=True).stop_criteria == StopCriteria.EARLY
    assert config_of(**BEAMS).stop_criteria == StopCriteria.HEURISTIC


def test_requests_without_a_seed_have_different_ones() -> None:
    assert len({config_of(**SAMPLED).rng_seed for _ in range(4)}) == 4
