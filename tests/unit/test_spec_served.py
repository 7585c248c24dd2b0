"""Specs of the runtimes vllm and tensorrt_llm: which keys they have, what is refused, and what is written out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conch.errors import SpecError
from conch.spec import ModelSpec, Runtime, parse_spec

SECTIONS = {Runtime.VLLM: "vllm", Runtime.LLMAPI: "llmapi"}


def good(runtime: Runtime, section: dict[str, Any] | None = None, **engine: Any) -> ModelSpec:
    settings = {"runtime": runtime.value, SECTIONS[runtime]: section or {}, **engine}
    data = {"name": "x", "source": {"uri": "hf://a/b@main"}, "engine": settings}
    return parse_spec(json.dumps(data), "spec")


def refusal(runtime: Runtime, section: dict[str, Any] | None = None, **engine: Any) -> str:
    with pytest.raises(SpecError) as caught:
        good(runtime, section, **engine)
    return caught.value.message


@pytest.mark.parametrize("runtime", SECTIONS)
def test_defaults_and_what_is_written_out(runtime: Runtime) -> None:
    spec = good(runtime)
    assert spec.engine.runtime is runtime
    assert (spec.engine.max_batch_size, spec.engine.max_num_tokens, spec.engine.max_seq_len) == (256, 8192, None)
    written = json.loads(spec.canonical_json())["engine"]
    assert set(written) == {
        "runtime", "enable_kv_cache_reuse", "max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len",
        "step_timeout_s", SECTIONS[runtime],
    }  # fmt: skip
    assert ModelSpec.model_validate(json.loads(spec.canonical_json())) == spec
    bare = parse_spec(f"{{name: x, source: {{uri: hf://a/b@main}}, engine: {{runtime: {runtime.value}}}}}", "spec")
    assert bare == spec, "the section may be left out"


def test_vllm_s_own_names_for_what_every_runtime_has() -> None:
    section = {"max_model_len": 512, "max_num_seqs": 8, "max_num_batched_tokens": 64, "enable_prefix_caching": False}
    engine = good(Runtime.VLLM, section).engine
    assert (engine.max_seq_len, engine.max_batch_size, engine.max_num_tokens) == (512, 8, 64)
    assert not engine.enable_kv_cache_reuse
    both = refusal(Runtime.VLLM, {"max_num_seqs": 8}, max_batch_size=8)
    assert "vllm.max_num_seqs and max_batch_size are two names of one setting: write one of them" in both


@pytest.mark.parametrize("runtime", SECTIONS)
@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"kv_cache_gib": 2}, "kv_cache_gib must not be set for the runtime {runtime}"),
        ({"num_threads": 2, "weights": "int8"}, "num_threads, weights must not be set for the runtime {runtime}"),
        ({"tensorrt_llm": {}}, "tensorrt_llm is for the runtime tensorrtllm, got the runtime {runtime}"),
        ({"max_num_tokens": 64, "max_batch_size": 65}, "max_num_tokens must be at least max_batch_size (65)"),
        ({"max_seq_len": 64, "max_input_len": 64}, "max_input_len must be < max_seq_len"),
        ({"nonsense": 1}, "unknown key engine.nonsense"),
    ],
)
def test_keys_of_other_runtimes_are_refused(runtime: Runtime, engine: dict[str, Any], message: str) -> None:
    assert message.format(runtime=runtime.value) in refusal(runtime, **engine)


@pytest.mark.parametrize("runtime", SECTIONS)
@pytest.mark.parametrize("other", ["openvino", "echo", "tensorrtllm", "vllm", "tensorrt_llm"])
def test_their_sections_are_for_no_other(runtime: Runtime, other: str) -> None:
    if other != runtime.value:
        text = f"{{name: x, source: {{uri: a}}, engine: {{runtime: {other}, {SECTIONS[runtime]}: {{dtype: auto}}}}}}"
        with pytest.raises(SpecError, match=rf"{SECTIONS[runtime]} is for the runtime {runtime.value}"):
            parse_spec(text, "spec")


@pytest.mark.parametrize("runtime", SECTIONS)
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"version": "0.1.0"}, ".version: Input should be"),
        ({"container": "two words"}, ".container: must be the name of an image, got 'two words'"),
        ({"container": "nvcr.io/nvidia/tritonserver:25.12-vllm-python-py3"}, "carries 0.11.1"),
        ({"container": "nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"}, "carries 1.1.0"),
        ({"tensor_parallel_size": 0}, ".tensor_parallel_size"),
        ({"tensor_parallel_size": True}, ".tensor_parallel_size: must be a number"),
        ({"dtype": "int3"}, ".dtype"),
        ({"swap_space": 4}, "unknown key engine."),
        ({"enable_chunked_prefill": False}, "max_num_tokens must be at least max_input_len (16383)"),
    ],
)
def test_settings_that_cannot_be(runtime: Runtime, section: dict[str, Any], message: str) -> None:
    if f"-{'trtllm' if runtime is Runtime.VLLM else 'vllm'}-" in str(section):
        assert good(runtime, section), "a tag of another kind says nothing"
        return
    assert message in refusal(runtime, section, max_seq_len=16384)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"gpu_memory_utilization": 1.1}, "gpu_memory_utilization"),
        ({"quantization": "guesswork"}, "quantization"),
        ({"enable_lora": True}, "enable_lora and lora_modules need each other"),
        ({"enable_lora": True,
          "lora_modules": [{"id": 1, "name": "a", "path": "/a"}, {"id": 1, "name": "b", "path": "/b"}]},
         "lora_modules must have different ids, got 1, 1"),
        ({"max_loras": 4, "max_cpu_loras": 2}, "max_cpu_loras must be at least max_loras 4, got 2"),
        ({"max_lora_rank": 7}, "max_lora_rank"),
    ],
)  # fmt: skip
def test_settings_of_vllm_that_cannot_be(section: dict[str, Any], message: str) -> None:
    assert message in refusal(Runtime.VLLM, section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"backend": "tensorrt"}, "backend"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 0}}, "kv_cache_config.free_gpu_memory_fraction"),
        ({"kv_cache_config": {"enable_block_reuse": True}}, "unknown key engine.llmapi.kv_cache_config."),
        ({"capacity_scheduler_policy": "STATIC_BATCH"}, "capacity_scheduler_policy"),
    ],
)  # fmt: skip
def test_settings_of_the_llm_api_that_cannot_be(section: dict[str, Any], message: str) -> None:
    assert message in refusal(Runtime.LLMAPI, section)
