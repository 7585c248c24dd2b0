"""config.pbtxt of Triton's C++ backend against what TensorRT-LLM itself declares and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from conch.contract import ENGINE
from conch.repository.pbtxt import model_configs
from conch.spec import ModelSpec, load_spec, parse_spec
from conch.spec_trtllm import CONTAINERS
from conch.trtllm.parameters import IF_SET, NEVER
from conch.trtllm.tensors import BACKEND, BACKEND_MODEL

ROOT = Path(__file__).resolve().parents[2]
REFERENCE: dict[str, Any] = json.loads((ROOT / "tests/reference/tensorrt_llm_1_2.json").read_text(encoding="utf-8"))
SPECS = [path for path in sorted((ROOT / "build_scripts/specs").glob("*.yaml")) if load_spec(path).engine.tensorrt_llm]
each_spec = pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
# What the engine decides stands as a placeholder in the reference: placeholder -> what may stand there.
PLACEHOLDERS = {
    "${logits_datatype}": ("TYPE_FP32", "TYPE_FP16"),
    "${encoder_input_features_data_type}": ("TYPE_FP16",),
    "${prompt_embedding_table_data_type}": ("TYPE_FP16", "TYPE_BF16", "TYPE_FP32"),
}


def backend_config(spec: ModelSpec, version: int = 1) -> pb.ModelConfig:
    return text_format.Parse(model_configs(spec, version)[BACKEND_MODEL], pb.ModelConfig())


def flags(tensor: Any) -> list[str]:
    said = {"optional": tensor.optional, "ragged": tensor.allow_ragged_batch, "reshape []": tensor.HasField("reshape")}
    return sorted(flag for flag, is_set in said.items() if is_set)


def parameters(config: pb.ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def test_there_are_specs() -> None:
    assert len(SPECS) >= 5


@each_spec
def test_every_tensor_is_the_backend_s(path: Path) -> None:
    config = backend_config(load_spec(path))
    for declared, recorded in ((config.input, REFERENCE["inputs"]), (config.output, REFERENCE["outputs"])):
        assert [t.name for t in declared] == [t["name"] for t in recorded]
        for tensor, expected in zip(declared, recorded, strict=True):
            data_type = pb.DataType.Name(tensor.data_type)
            assert data_type in PLACEHOLDERS.get(expected["data_type"], (expected["data_type"],)), tensor.name
            assert list(tensor.dims) == expected["dims"], tensor.name
    assert [flags(t) for t in config.input] == [t["flags"] for t in REFERENCE["inputs"]]
    assert not any(t.HasField("reshape") and list(t.reshape.shape) for t in config.input)


@each_spec
def test_every_parameter_is_known_and_set_or_left_out_on_purpose(path: Path) -> None:
    found = parameters(backend_config(load_spec(path)))
    known = {*REFERENCE["parameters"], *REFERENCE["undeclared_parameters"]}
    assert not set(found) - known, "parameters that the backend does not know"
    assert not set(found) & set(REFERENCE["removed_parameters"])
    left_out = known - set(found)
    assert left_out <= set(NEVER) | set(IF_SET), "parameters that nobody decided about"
    assert set(NEVER) | set(IF_SET) <= known | set(REFERENCE["removed_parameters"])
    assert not set(NEVER) & set(found)
    # Without a default in the backend: it does not load if one of them is missing.
    assert set(REFERENCE["parameters_without_default"]) <= set(found)
    empty = {name for name, value in found.items() if not value}
    assert empty <= set(REFERENCE["parameters_without_default"]), "an empty value would be replaced in silence"
    assert not any("${" in value for value in found.values())


@each_spec
def test_the_rest_of_the_config(path: Path) -> None:
    spec = load_spec(path)
    config = backend_config(spec, 7)
    assert config.backend == BACKEND
    assert config.max_batch_size == spec.engine.max_batch_size
    assert config.model_transaction_policy.decoupled
    assert list(config.version_policy.specific.versions) == [7]
    assert list(config.dynamic_batching.preferred_batch_size) == [spec.engine.max_batch_size]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == spec.serving.max_queue_size
    assert [(g.kind, g.count) for g in config.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 1)]
    assert parameters(config)["gpt_model_path"] == f"/model_repository/{ENGINE.name}/7/engine"


EVERYTHING = """
name: everything
source: {uri: model}
engine:
  runtime: tensorrtllm
  max_seq_len: 4096
  enable_kv_cache_reuse: false
  tensorrt_llm:
    architecture: MixtralForCausalLM
    tp_size: 8
    pp_size: 2
    served_repository: /srv/models/
    build:
      speculative_decoding_mode: lookahead_decoding
      max_draft_len: 83
      weight_streaming: true
      logits_dtype: float16
    backend:
      gpt_model_type: inflight_batching
      batch_scheduler_policy: max_utilization
      max_tokens_in_paged_kv_cache: 100000
      max_attention_window_size: [4096, 1024]
      sink_token_length: 4
      gpu_device_ids: 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
      participant_ids: 1,2
      num_nodes: 2
      lora_prefetch_dir: /lora
      lookahead_window_size: 7
      lookahead_ngram_size: 7
      lookahead_verification_set_size: 7
      gpu_weights_percent: 0.5
      cuda_graph_mode: true
      cuda_graph_cache_size: 100
      guided_decoding_backend: xgrammar
      xgrammar_tokenizer_info_path: /info.json
"""


def test_what_a_spec_sets_arrives() -> None:
    spec = parse_spec(EVERYTHING, "everything.yaml")
    config = backend_config(spec)
    found = parameters(config)
    assert set(IF_SET) <= set(found)
    assert not [name for name, value in found.items() if not value and name != "tokenizer_dir"]
    expected = {
        "gpt_model_type": "inflight_batching", "batch_scheduler_policy": "max_utilization",
        "max_tokens_in_paged_kv_cache": "100000", "max_attention_window_size": "4096,1024", "sink_token_length": "4",
        "num_nodes": "2", "decoding_mode": "lookahead", "enable_kv_cache_reuse": "false", "cuda_graph_mode": "true",
        "gpt_model_path": "/srv/models/llama_engine/1/engine", "guided_decoding_backend": "xgrammar",
        "participant_ids": "1,2", "gpu_weights_percent": "0.5",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert {t.name: pb.DataType.Name(t.data_type) for t in config.output}["context_logits"] == "TYPE_FP16"


def test_the_containers_are_the_recorded_ones() -> None:
    assert REFERENCE["containers"] == CONTAINERS
