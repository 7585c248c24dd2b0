"""The commands that make an engine: every flag and value is TensorRT-LLM's own, and the spec's settings arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conch.spec import ModelSpec, load_spec, parse_spec
from conch.spec_trtllm import CONVERTERS, TensorRtLlm
from conch.spec_trtllm_sections import Backend, Build, Plugins, Quantization
from conch.trtllm.commands import checkpoint_command, container_command, engine_command

ROOT = Path(__file__).resolve().parents[2]
REFERENCE: dict[str, Any] = json.loads((ROOT / "tests/reference/tensorrt_llm_1_2.json").read_text(encoding="utf-8"))
SPECS = [path for path in sorted((ROOT / "build_scripts/specs").glob("*.yaml")) if load_spec(path).engine.tensorrt_llm]
EVERYTHING = """
name: everything
source: {uri: model}
engine:
  runtime: tensorrtllm
  max_batch_size: 8
  max_seq_len: 4096
  tensorrt_llm:
    architecture: Qwen2ForCausalLM
    dtype: bfloat16
    tp_size: 2
    pp_size: 2
    build:
      max_beam_width: 4
      opt_num_tokens: 64
      logits_dtype: float16
      gather_context_logits: true
      profiling_verbosity: detailed
      weight_sparsity: true
      weight_streaming: true
      strip_plan: true
      fast_build: true
      workers: 4
      log_level: verbose
      lora_dir: [a, b]
      lora_target_modules: [attn_q, attn_v]
      max_lora_rank: 8
    plugin_config:
      gemm_plugin: null
      lora_plugin: bfloat16
      gemm_allreduce_plugin: bfloat16
      reduce_fusion: true
      user_buffer: true
      tokens_per_block: 64
      paged_state: false
"""


def specs() -> list[ModelSpec]:
    return [*map(load_spec, SPECS), parse_spec(EVERYTHING, "everything.yaml")]


def section(spec: ModelSpec) -> TensorRtLlm:
    assert spec.engine.tensorrt_llm is not None
    return spec.engine.tensorrt_llm


def parsed(arguments: list[str]) -> dict[str, list[str]]:
    """Flag without its dashes -> values; a flag written twice fails."""
    found: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument.removeprefix("--")
            assert name not in found, f"{argument} is there twice"
            found[name] = []
        else:
            found[name].append(argument)
    return found


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_every_flag_of_the_build_is_known_and_none_was_removed(spec: ModelSpec) -> None:
    command = engine_command(spec.engine, section(spec), "$CHECKPOINT", "$ENGINE")
    assert command[0] == "trtllm-build"
    flags = parsed(command[1:])
    plugins, choices = REFERENCE["plugin_flags"], REFERENCE["build_flag_choices"]
    assert not set(flags) - {*REFERENCE["build_flags"], *plugins}, "unknown to trtllm-build"
    assert not set(flags) & set(REFERENCE["removed_build_flags"])
    for name, values in flags.items():
        if name in REFERENCE["build_switches"]:
            assert values == []
            continue
        assert values, f"--{name} has no value"
        allowed = plugins.get(name) or choices.get(name)
        if allowed and name != "tokens_per_block":
            assert values[0] in allowed, name
    # Nothing about plugins is left to a default.
    assert set(plugins) - set(flags) == {"streamingllm"}, "refused by trtllm-build itself"


@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
def test_every_flag_of_the_checkpoint_is_known(spec: ModelSpec) -> None:
    settings = section(spec)
    python, script, *arguments = checkpoint_command(settings, "$MODEL", "$CHECKPOINT", "/app/examples")
    flags = parsed(arguments)
    assert python == "python3"
    if settings.quantization.needed:
        assert script == "/app/examples/quantization/quantize.py"
        known, choices = REFERENCE["quantize_flags"], REFERENCE["quantize_flag_choices"]
        switches = REFERENCE["quantize_switches"]
    else:
        family = CONVERTERS[settings.architecture]
        assert script == f"/app/examples/models/core/{family}/convert_checkpoint.py"
        known, choices, switches = REFERENCE["convert_flags"][family], REFERENCE["convert_flag_choices"], []
    assert not set(flags) - set(known), f"unknown to {script}"
    for name, values in flags.items():
        assert len(values) == (0 if name in switches else 1)
        assert name not in choices or values[0] in choices[name]
    assert (flags["tp_size"], flags["pp_size"]) == ([str(settings.tp_size)], [str(settings.pp_size)])


def test_what_a_spec_sets_arrives() -> None:
    spec = parse_spec(EVERYTHING, "everything.yaml")
    flags = parsed(engine_command(spec.engine, section(spec), "in", "out")[1:])
    expected = {
        "checkpoint_dir": ["in"], "output_dir": ["out"], "max_batch_size": ["8"], "max_seq_len": ["4096"],
        "max_input_len": ["4095"], "max_num_tokens": ["8192"], "max_beam_width": ["4"], "opt_num_tokens": ["64"],
        "gemm_plugin": ["disable"], "lora_plugin": ["bfloat16"], "gemm_allreduce_plugin": ["bfloat16"],
        "user_buffer": ["enable"], "paged_state": ["disable"], "tokens_per_block": ["64"], "lora_dir": ["a", "b"],
        "lora_target_modules": ["attn_q", "attn_v"], "max_lora_rank": ["8"], "strip_plan": [], "fast_build": [],
        "weight_streaming": [], "kv_cache_type": ["paged"], "output_timing_cache": ["out/model.cache"],
    }  # fmt: skip
    assert {name: flags[name] for name in expected} == expected


def test_the_flagship_is_built_as_it_is_meant() -> None:
    spec = load_spec(ROOT / "build_scripts/specs/llama2-70b-fp16-tp4.yaml")
    flags = parsed(engine_command(spec.engine, section(spec), "in", "out")[1:])
    expected = {
        "max_batch_size": ["64"], "max_input_len": ["2048"], "max_seq_len": ["4096"], "gemm_plugin": ["float16"],
        "use_paged_context_fmha": ["enable"],
    }  # fmt: skip
    assert {name: flags[name] for name in expected} == expected
    assert parsed(checkpoint_command(section(spec), "m", "c", "/x")[2:])["tp_size"] == ["4"]


def test_quantization_formats_are_the_recorded_ones() -> None:
    def literals(field: Any) -> list[str]:
        return [v for v in json.dumps(Quantization.model_json_schema()["properties"][field]).split('"') if v]

    for field in ("qformat", "kv_cache_dtype"):
        assert set(REFERENCE["quantize_flag_choices"][field]) <= set(literals(field))


def test_every_key_of_a_section_is_a_name_of_tensorrt_llm_s() -> None:
    backend = {*REFERENCE["parameters"], *REFERENCE["undeclared_parameters"]}
    for model, known in (
        (Quantization, set(REFERENCE["quantize_flags"])),
        (Plugins, set(REFERENCE["plugin_flags"])),
        (Build, set(REFERENCE["build_flags"])),
        (Backend, {*backend, "max_queue_delay_microseconds"}),  # the last one of dynamic_batching
    ):
        assert not set(model.model_fields) - known, model.__name__


def test_a_command_in_a_container_sees_the_same_paths() -> None:
    command = container_command(["trtllm-build", "--output_dir", "/c/out"], "image:1", ["/c", "/m"], "5:6")
    assert command[:3] == ["docker", "run", "--rm"]
    image = command.index("image:1")
    assert command[image + 1 :] == ["trtllm-build", "--output_dir", "/c/out"]
    assert [command[i + 1] for i, part in enumerate(command) if part == "--volume"] == ["/c:/c", "/m:/m"]
    assert command[command.index("--user") + 1] == "5:6"
