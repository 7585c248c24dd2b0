"""Engines of another version, GPU or number of ranks are refused before they are loaded, and so are halves of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_models import CONFIGS

from conch.errors import BuildError, RepositoryError
from conch.spec import Engine, ModelSpec, parse_spec
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.engine_match import CompiledFor, Host, check_host, check_spec, read_engine, write_build_file
from conch.trtllm.model_config import check_model

H100 = Host("1.2.1", "9.0", 8, "NVIDIA H100 80GB HBM3", 81559)


def write_engine(folder: Path, ranks: int = 2, version: str = "1.2.1", **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    mapping = {"world_size": ranks, "tp_size": ranks, "pp_size": 1}
    config = {"version": version, "pretrained_config": {"mapping": mapping}, "build_config": {}, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(ranks):
        (folder / f"rank{rank}.engine").write_bytes(b"engine")
    return folder


def settings(engine: str = "{}", **section: Any) -> tuple[Engine, TensorRtLlm]:
    text = json.dumps({
        "name": "a", "source": {"uri": "b"},
        "engine": {
            "runtime": "tensorrtllm", "max_seq_len": 4096, **json.loads(engine),
            "tensorrt_llm": {"architecture": "LlamaForCausalLM", **section},
        },
    })  # fmt: skip
    spec: ModelSpec = parse_spec(text, "a.yaml")
    assert spec.engine.tensorrt_llm is not None
    return spec.engine, spec.engine.tensorrt_llm


def test_an_engine_says_what_it_is_for(tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engine")
    assert read_engine(folder) == CompiledFor("1.2.1", 2, 1)
    write_build_file(folder, H100)
    engine = read_engine(folder)
    assert engine == CompiledFor("1.2.1", 2, 1, "9.0", "NVIDIA H100 80GB HBM3")
    check_host(engine, H100)
    check_spec(engine, settings(tp_size=2, compute_capability="9.0")[1])


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (Host("1.1.0", "9.0", 8), "compiled for TensorRT-LLM 1.2.1, and this machine has 1.1.0"),
        (Host("1.2.1", "8.0", 8), "compiled for compute capability 9.0, and this machine has 8.0"),
        (Host("1.2.1", "9.0", 1), "compiled for 2 GPUs (tp_size 2, pp_size 1), and there are 1"),
    ],
)
def test_another_machine_is_refused_with_both_sides_named(host: Host, message: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        check_host(CompiledFor("1.2.1", 2, 1, "9.0"), host)
    assert message in caught.value.message


def test_two_machines_have_the_gpus_of_both() -> None:
    check_host(CompiledFor("1.2.1", 8, 2, "9.0"), H100, num_nodes=2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tp_size": 4}, "compiled for tp_size 2, and the spec has 4"),
        ({"tp_size": 2, "pp_size": 2}, "compiled for pp_size 1, and the spec has 2"),
        ({"tp_size": 2, "compute_capability": "8.9"}, "compiled for compute capability 9.0, and the spec has 8.9"),
    ],
)
def test_another_spec_is_refused_with_both_sides_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        check_spec(CompiledFor("1.2.1", 2, 1, "9.0"), settings(**section)[1])
    assert message in caught.value.message


def test_an_engine_of_another_version_is_refused() -> None:
    with pytest.raises(RepositoryError, match=r"TensorRT-LLM 1\.1\.0, and the spec has 1\.2\.1"):
        check_spec(CompiledFor("1.1.0", 1, 1), settings()[1])


def test_half_an_engine_is_refused(tmp_path: Path) -> None:
    folder = write_engine(tmp_path / "engine")
    (folder / "rank1.engine").write_bytes(b"")
    with pytest.raises(RepositoryError, match=r"rank1\.engine is missing or empty: the engine has 2 ranks"):
        read_engine(folder)
    (folder / "rank1.engine").unlink()
    with pytest.raises(RepositoryError, match=r"rank1\.engine is missing or empty"):
        read_engine(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ('{"version": "1.2.1", "pretrain', "cannot be read"),
        ("[]", "must hold a JSON object"),
        ('{"builder_config": {}}', "is not of an engine"),
        ('{"version": "1.2.1", "pretrained_config": {}}', "must name version and mapping"),
        ('{"version": "1.2.1", "pretrained_config": {"mapping": {"tp_size": "x"}}}', "must name version and mapping"),
        ('{"pretrained_config": {"mapping": {"tp_size": 1, "pp_size": 1}}}', "must name version and mapping"),
    ],
)
def test_what_is_no_engine_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(RepositoryError) as caught:
        read_engine(tmp_path)
    assert message in caught.value.message


LLAMA_70B = CONFIGS["Llama-2-70B"]


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8, 16, 64])
def test_a_model_that_can_be_cut_up(tp_size: int) -> None:
    check_model(LLAMA_70B, *settings(tp_size=tp_size, gpus_per_node=64))


@pytest.mark.parametrize(
    ("config", "section", "message"),
    [
        ({}, {"tp_size": 3}, "engine.tensorrt_llm.tp_size must divide num_attention_heads 64, got 3"),
        (
            {"num_attention_heads": 36, "num_key_value_heads": 4, "hidden_size": 9216}, {"tp_size": 6},
            "divide num_key_value_heads 4, or be",
        ),
        ({"num_hidden_layers": 2}, {"pp_size": 4}, "engine.tensorrt_llm.pp_size must be <= num_hidden_layers 2, got 4"),
        ({"architectures": ["T5ForConditionalGeneration"]}, {}, "got T5ForConditionalGeneration"),
        ({"architectures": None}, {}, "got none"),
        ({"num_attention_heads": "many"}, {}, "num_attention_heads must be a whole number in"),
        ({"num_key_value_heads": 0}, {}, "num_key_value_heads must be a whole number in"),
        ({"architectures": [["Llama"]]}, {}, "config.json must be one of LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "awq"}}, {}, "quantization_config of the model's"),
        ({"model_type": "bert"}, {}, "model_type must be one of llama"),
        ({"architectures": ["Qwen2ForCausalLM"]}, {}, "model's, Qwen2ForCausalLM, got LlamaForCausalLM"),
        ({"max_position_embeddings": 2048}, {}, "engine.max_seq_len must be <= 2048, the model's context, got 4096"),
        (
            {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3},
            {"quantization": {"qformat": "int4_awq"}},
            "awq_block_size that divides hidden_size 576, not 128",
        ),
    ],
)
def test_a_model_that_does_not_fit_the_spec(config: dict[str, Any], section: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError) as caught:
        check_model({**LLAMA_70B, **config}, *settings(**section))
    assert message in caught.value.message
