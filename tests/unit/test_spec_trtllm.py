"""Specs of the runtime tensorrtllm: which keys it has, what is refused, and that a spec survives being written out."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from conch.errors import SpecError
from conch.spec import ModelSpec, Runtime, parse_spec
from conch.spec_trtllm import CONTAINERS, LOWEST_SM, VERSION

LLAMA = {"architecture": "LlamaForCausalLM"}


def spec_text(section: dict[str, Any] | None = None, **engine: Any) -> str:
    settings = {"runtime": "tensorrtllm", "max_seq_len": 4096, "tensorrt_llm": {**LLAMA, **(section or {})}, **engine}
    return yaml.safe_dump({"name": "small", "source": {"uri": "model"}, "engine": settings})


def good(section: dict[str, Any] | None = None, **engine: Any) -> ModelSpec:
    return parse_spec(spec_text(section, **engine), "small.yaml")


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "small.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_few_lines_are_a_spec() -> None:
    engine = good().engine
    assert engine.runtime is Runtime.TENSORRTLLM
    assert engine.max_num_tokens == 8192, "TensorRT-LLM's own default"
    assert engine.tensorrt_llm is not None
    assert engine.tensorrt_llm.version == VERSION
    assert engine.tensorrt_llm.world_size == 1


def test_a_spec_that_is_written_out_is_read_again() -> None:
    spec = good({"tp_size": 2, "build": {"workers": 2}, "backend": {"max_attention_window_size": [1024, 4096]}})
    written = spec.canonical_json()
    assert parse_spec(written, "canonical") == spec
    assert "kv_cache_gib" not in written, "a key of another runtime"


def test_other_runtimes_do_not_know_of_the_section() -> None:
    spec = parse_spec("name: small\nsource: {uri: model.gguf}", "small.yaml")
    assert "tensorrt_llm" not in spec.canonical_json()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"weights": "as_is"}, "weights must not be set for the runtime tensorrtllm"),
        ({"kv_cache_gib": 1, "num_threads": 2}, "kv_cache_gib, num_threads must not be set"),
        ({"deterministic": False}, "deterministic must not be set"),
        ({"echo_itl_ms": 1}, "echo_itl_ms must not be set"),
        ({"runtime": "openvino"}, "tensorrt_llm is for the runtime tensorrtllm, got the runtime openvino"),
        ({"runtime": "echo"}, "tensorrt_llm is for the runtime tensorrtllm, got the runtime echo"),
        ({"tensorrt_llm": None}, "tensorrt_llm must be set for the runtime tensorrtllm"),
        ({"max_seq_len": None}, "max_seq_len must be set for the runtime tensorrtllm"),
        ({"max_input_len": 5000}, "max_input_len must be < max_seq_len"),
        ({"max_num_tokens": 1024}, "max_num_tokens must be at least max_input_len (4095)"),
    ],
)
def test_keys_of_another_runtime_and_limits_that_do_not_fit_are_refused(engine: dict[str, Any], message: str) -> None:
    assert message in refusal(spec_text(**engine))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"architecture": "T5ForConditionalGeneration"}, "must be a decoder-only model: one of LlamaForCausalLM"),
        ({"architecture": "BertModel"}, "got 'BertModel'"),
        ({"version": "1.3.0"}, "version: Input should be '1.2.1', got '1.3.0'"),
        ({"container": "nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"}, "25.12 carries 1.1.0"),
        ({"container": "nvcr.io/nvidia/tritonserver:26.08-trtllm-python-py3"}, "26.08 is not known to carry it"),
        ({"container": "a b"}, "must be the name of an image"),
        ({"tp_size": 0}, "tp_size"),
        ({"tp_size": True}, "must be a number"),
        ({"dtype": "fp16"}, "dtype: Input should be 'auto', 'float16', 'bfloat16' or 'float32', got 'fp16'"),
        ({"served_repository": "models"}, "served_repository"),
        ({"quantization": {"qformat": "w8a8"}}, "qformat"),
        ({"compute_capability": "8.0", "quantization": {"qformat": "fp8"}}, "8.9 or more, got 8.0"),
        ({"compute_capability": "8.6", "quantization": {"kv_cache_dtype": "fp8"}}, "kv_cache_dtype fp8 needs"),
        ({"compute_capability": "9.0", "quantization": {"qformat": "nvfp4"}}, "10.0 or more, got 9.0"),
        ({"compute_capability": "7.5"}, "compute_capability must be 8.0 or more for TensorRT-LLM 1.2.1, got 7.5"),
        ({"compute_capability": "9"}, "compute_capability"),
        ({"plugin_config": {"streamingllm": True}}, "unknown key engine.tensorrt_llm.plugin_config.streamingllm"),
        ({"plugin_config": {"gemm_plugin": "fp4"}}, "gemm_plugin"),
        ({"plugin_config": {"tokens_per_block": 48}}, "must be a power of two, got 48"),
        ({"plugin_config": {"user_buffer": True}}, "user_buffer needs plugin_config.reduce_fusion"),
        ({"plugin_config": {"gemm_swiglu_plugin": "fp8"}}, "quantization.qformat must be, got full_prec"),
        ({"plugin_config": {"lora_plugin": "auto"}}, "needs build.lora_dir or build.lora_target_modules"),
        ({"plugin_config": {"use_paged_context_fmha": False}}, "enable_kv_cache_reuse needs"),
        ({"plugin_config": {"pp_reduce_scatter": True}}, "is for MixtralForCausalLM alone"),
        ({"build": {"kv_cache_type": "continuous"}}, "kv_cache_type must be paged"),
        ({"build": {"max_output_len": 7}}, "unknown key engine.tensorrt_llm.build.max_output_len"),
        ({"build": {"max_draft_len": 4}}, "speculative_decoding_mode and max_draft_len need each other"),
        ({"build": {"speculative_decoding_mode": "medusa", "max_draft_len": 4}}, "speculative_decoding_mode"),
        ({"backend": {"batch_scheduler_policy": "static"}}, "batch_scheduler_policy"),
        ({"backend": {"enable_trt_overlap": True}}, "unknown key engine.tensorrt_llm.backend.enable_trt_overlap"),
        ({"backend": {"kv_cache_free_gpu_mem_fraction": 1}}, "kv_cache_free_gpu_mem_fraction"),
        ({"backend": {"gpu_device_ids": "0,1"}}, "must name 1 GPUs (tp_size * pp_size), got 0,1"),
        ({"backend": {"gpu_weights_percent": 0.5}}, "must be 1 without build.weight_streaming, got 0.5"),
        ({"backend": {"decoding_mode": "lookahead"}}, "need each other, got lookahead and None"),
        ({"backend": {"decoding_mode": "beam_search"}}, "needs build.max_beam_width > 1"),
        ({"backend": {"guided_decoding_backend": "xgrammar"}}, "need each other"),
        ({"backend": {"num_nodes": 2}}, "num_nodes must be 1 for 1 ranks"),
        ({"tp_size": 8, "pp_size": 2}, "num_nodes must be 2 for 16 ranks on machines of 8 GPUs, got 1"),
        ({"backend": {"cuda_graph_cache_size": 10}}, "must be 0 when cuda_graph_mode is false"),
    ],
)
def test_a_bad_section_is_refused(section: dict[str, Any], message: str) -> None:
    assert message in refusal(spec_text(section))


def test_only_containers_with_the_version_are_taken() -> None:
    for tag, version in CONTAINERS.items():
        image = f"registry.example/tritonserver:{tag}-trtllm-python-py3"
        if version == VERSION:
            assert good({"container": image}).engine.tensorrt_llm is not None
        else:
            assert version in refusal(spec_text({"container": image}))


@pytest.mark.parametrize(("qformat", "sm"), LOWEST_SM.items())
def test_every_format_is_taken_from_its_lowest_gpu_on(qformat: str, sm: int) -> None:
    assert good({"compute_capability": f"{sm // 10}.{sm % 10}", "quantization": {"qformat": qformat}})


def test_a_compute_capability_may_stand_without_quotes() -> None:
    for number, text in ((8.9, "8.9"), (10.0, "10.0")):
        settings = good({"compute_capability": number}).engine.tensorrt_llm
        assert settings is not None
        assert settings.compute_capability == text
