"""Importers: real-world files become valid specs, every field is accounted for, contradictions are refused by name."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples

from conch.errors import InvalidArgumentError
from conch.importers.command import import_text, main, sniff
from conch.importers.draft import Fate, Imported
from conch.importers.modelfile import parse_modelfile
from conch.importers.models import Given, as_name
from conch.importers.trtllm_fields import RULES
from conch.spec import ModelSpec, Runtime, load_spec, parse_spec
from conch.spec_trtllm import TensorRtLlm
from conch.spec_trtllm_sections import Plugins

FILES = Path(__file__).resolve().parents[1] / "imports"
LLAMA = "hf://meta-llama/Llama-2-70b-hf@3aba440b59558f995867ba6e1f58f21d0336b5bb"
SOURCED = Given(source=LLAMA)
COMPILED = Given(runtime="tensorrtllm")
SYSTEMS = {
    "llama2_70b_build_config.py.txt": "trtllm", "engine_config.json": "trtllm", "trtllm.yaml": "trtllm",
    "engine_config_llama_tp4.json": "trtllm", "engine_config_qwen_tp4.json": "trtllm",
    "vllm.yaml": "vllm", "vllm_lora.yaml": "vllm", "tgi.env": "tgi", "tgi_docker.sh": "tgi", "Modelfile": "ollama",
}  # fmt: skip


def read(name: str, said: Given | None = None) -> Imported:
    without_a_model = name == "llama2_70b_build_config.py.txt" or name.startswith("engine_config")
    said = said or (SOURCED if without_a_model else Given())
    return import_text((FILES / name).read_text(), SYSTEMS[name], name, said, FILES)


def settings(spec: ModelSpec) -> TensorRtLlm:
    assert spec.engine.tensorrt_llm is not None
    return spec.engine.tensorrt_llm


def fate(imported: Imported, field: str) -> tuple[Fate, str, Any]:
    entries = [e for e in imported.account if e.field is not None and e.field.name == field]
    assert len(entries) == 1, field
    return entries[0].fate, entries[0].key, entries[0].value


def refusal(text: str, system: str, said: Given = SOURCED) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        import_text(text, system, "file", said)
    assert "\n" not in caught.value.message
    return caught.value.message


# --- real-world files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_real_world_file_becomes_a_valid_spec_with_every_field_accounted_for(name: str) -> None:
    imported = read(name)
    assert parse_spec(imported.text, name) == imported.spec
    fields = [entry.field for entry in imported.account if entry.field is not None]
    accounted = [field.name.removeprefix("plugin_config.") for field in fields]
    assert sorted(_names(name)) == sorted(accounted)
    assert all(field.line for field in fields)
    assert not [entry for entry in imported.account if entry.fate is Fate.UNKNOWN]


def _names(name: str) -> list[str]:
    """Names of the fields of a file, found in another way than the importers find them."""
    text = (FILES / name).read_text()
    if name.endswith((".json", ".yaml")):
        return list(_leaves(yaml.safe_load(text)))
    if name.endswith(".txt"):
        return re.findall(r'"(\w+)":', text)
    if name == "Modelfile":
        pairs = re.findall(r"(?im)^(PARAMETER|MESSAGE) (\w+)", text)
        alone = re.findall(r"(?m)^(FROM|TEMPLATE|SYSTEM|LICENSE) ", text)
        return [f"{word.upper()} {name}" for word, name in pairs] + alone
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return re.findall(r"(?<![\w-])(?!-e )(-{1,2}[a-z][\w-]*|\w+(?==))", uncommented)


# Sections that are accounted for as a whole.
_ONE_FIELD = ("rotary_scaling", "trtllm_modules_to_hf_modules", "moe", "auto_parallel_config")


def _leaves(data: dict[str, Any]) -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict) and key not in _ONE_FIELD:
            yield from _leaves(value)
        else:
            yield key


@pytest.mark.parametrize("name", ["engine_config_llama_tp4.json", "engine_config_qwen_tp4.json"])
def test_an_engine_without_paged_context_fmha_reuses_no_blocks(name: str) -> None:
    imported = read(name)
    assert (settings(imported.spec).tp_size, imported.spec.engine.enable_kv_cache_reuse) == (4, False)
    assert not settings(imported.spec).plugin_config.use_paged_context_fmha
    (assumed,) = [entry for entry in imported.account if entry.key == "engine.enable_kv_cache_reuse"]
    assert (assumed.fate, assumed.note) == (Fate.ASSUMED, "reuse needs use_paged_context_fmha, which is off")
    assert fate(imported, "auto_parallel_config")[0] is Fate.DROPPED


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_system_is_seen_from_the_content(name: str) -> None:
    assert sniff((FILES / name).read_text(), name) == SYSTEMS[name]


def test_old_names_of_tensorrt_llm() -> None:
    imported = read("llama2_70b_build_config.py.txt")
    spec, trt = imported.spec, settings(imported.spec)
    assert (spec.engine.max_batch_size, spec.engine.max_input_len, spec.engine.max_seq_len) == (64, 2048, 4096)
    assert (trt.architecture, trt.dtype, trt.tp_size) == ("LlamaForCausalLM", "float16", 4)
    assert trt.plugin_config.context_fmha
    assert trt.plugin_config.gemm_plugin == "float16"
    assert fate(imported, "max_output_len") == (Fate.MAPPED, "engine.max_seq_len", 4096)
    assert fate(imported, "use_flash_attention")[1] == "engine.tensorrt_llm.plugin_config.context_fmha"


def test_the_build_config_of_the_shipped_spec_gives_what_that_spec_says() -> None:
    shipped = load_spec(Path(__file__).resolve().parents[2] / "build_scripts" / "specs" / "llama2-70b-fp16-tp4.yaml")
    imported = read("llama2_70b_build_config.py.txt", Given(source=shipped.source.uri, gpu="A100-80GB")).spec
    ours, theirs = imported.model_dump(), shipped.model_dump()
    theirs["name"], theirs["engine"]["tensorrt_llm"]["build"]["workers"] = ours["name"], 1
    assert ours == theirs


def test_an_engines_config() -> None:
    imported = read("engine_config.json", Given(source="llama", gpu="H100-80GB"))
    trt = settings(imported.spec)
    assert (trt.quantization.qformat, trt.quantization.kv_cache_dtype) == ("fp8", "fp8")
    assert (trt.plugin_config.gemm_plugin, trt.plugin_config.nccl_plugin) == ("fp8", None)
    assert trt.plugin_config.tokens_per_block == 64
    assert trt.compute_capability == "9.0"
    assert imported.spec.engine.max_seq_len == 8192
    assert fate(imported, "version")[0] is Fate.DROPPED


def test_every_field_of_vllm_that_was_asked_for() -> None:
    imported = read("vllm.yaml")
    spec, vllm = imported.spec, imported.spec.engine.vllm
    assert vllm is not None
    assert spec.source.uri == "hf://meta-llama/Llama-3.1-8B-Instruct@main"
    assert (spec.name, spec.serving.log_format.value) == ("llama-3.1", "off")
    assert (spec.engine.max_num_tokens, spec.engine.max_batch_size, spec.engine.max_seq_len) == (8192, 256, 32768)
    assert (vllm.tensor_parallel_size, vllm.pipeline_parallel_size) == (1, 1)
    assert (vllm.dtype, vllm.block_size) == ("bfloat16", 16)
    assert (vllm.quantization, vllm.kv_cache_dtype, vllm.gpu_memory_utilization) == ("fp8", "fp8", 0.92)
    assert (vllm.enforce_eager, vllm.trust_remote_code, vllm.enable_chunked_prefill) == (False, False, True)
    dropped = ("max-logprobs", "swap-space", "host", "port", "api-key")
    assert {fate(imported, name)[0] for name in dropped} == {Fate.DROPPED}
    assert {e.fate for e in imported.account} == {Fate.MAPPED, Fate.DROPPED, Fate.ASSUMED}


def test_adapters_of_vllm() -> None:
    spec = read("vllm_lora.yaml").spec
    assert spec.engine.vllm is not None
    assert (spec.engine.max_seq_len, spec.engine.enable_kv_cache_reuse) == (16384, True)
    assert (spec.engine.vllm.enable_lora, spec.engine.vllm.max_lora_rank) == (True, 16)
    found = [(module.id, module.name, module.path) for module in spec.engine.vllm.lora_modules]
    assert found == [(1, "sql", "/models/lora/sql"), (2, "support", "/models/lora/support")]


def test_a_quantized_checkpoint_is_vllm_s_as_it_is() -> None:
    spec = import_text("model: TheBloke/Llama-2-7B-AWQ\nquantization: awq", "vllm", "file", Given()).spec
    assert spec.engine.vllm is not None
    assert (spec.source.uri, spec.engine.vllm.quantization) == ("hf://TheBloke/Llama-2-7B-AWQ@main", "awq")
    assert spec.engine.max_seq_len is None, "the model's context"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-num-batched-tokens: 64\nmax-num-seqs: 128", "max-num-batched-tokens must be >= max-num-seqs 128, got 64"),
        ("max-num-batched-tokens: 2048\nmax-model-len: 4096\nenable-chunked-prefill: false",
         "max-num-batched-tokens must be >= max-model-len 4096 without chunked prefill, got 2048"),
        ("async-scheduling: true\nno-async-scheduling: true",
         "async-scheduling and no-async-scheduling contradict each other"),
        ("gpu-memory-utilization: 1.5", "gpu-memory-utilization must be a number in (0, 1], got 1.5"),
        ("quantization: guesswork", "quantization must be one of none"),
        ("dtype: int8", "dtype must be one of auto"),
        ("tensor-parallel-size: 2\ntensor_parallel_size: 4", "tensor_parallel_size is written twice (line 2)"),
        ("max-lora-rank: 7\nenable-lora: true\nlora-modules: [a=/b]", "max_lora_rank"),
        ("lora-modules: [a=/b]", "lora-modules needs enable-lora: true"),
        ("enable-lora: true\nlora-modules: [a]", "lora-modules must be name=path"),
        ("enable-lora: true\nlora-modules: [a=/b, a=/c]", "lora_modules must have different names, got a, a"),
        ("max-num-seqs: 100000\nmax-num-batched-tokens: 100000", "engine.max_batch_size"),
    ],
)  # fmt: skip
def test_settings_for_vllm_that_cannot_be(text: str, message: str) -> None:
    assert message in refusal(text, "vllm")


def test_every_field_of_vllm_for_tensorrt_llm() -> None:
    imported = read("vllm.yaml", COMPILED)
    spec, trt = imported.spec, settings(imported.spec)
    assert spec.source.uri == "hf://meta-llama/Llama-3.1-8B-Instruct@main"
    assert (spec.name, spec.serving.log_format.value) == ("llama-3.1", "off")
    assert (spec.engine.max_num_tokens, spec.engine.max_batch_size, spec.engine.max_seq_len) == (8192, 256, 32768)
    assert (trt.tp_size, trt.pp_size, trt.dtype) == (1, 1, "bfloat16")
    assert trt.quantization.qformat == trt.quantization.kv_cache_dtype == "fp8"
    assert trt.backend.kv_cache_free_gpu_mem_fraction == 0.92
    assert trt.backend.kv_cache_host_memory_bytes == 4 << 30
    assert trt.plugin_config.tokens_per_block == 16
    assert trt.backend.enable_chunked_context  # vLLM cuts long prompts up unless it is told not to
    dropped = ("max-logprobs", "enforce-eager", "trust-remote-code", "host", "port", "api-key")
    assert {fate(imported, name)[0] for name in dropped} == {Fate.DROPPED}


def test_adapters_of_vllm_for_tensorrt_llm() -> None:
    trt = settings(read("vllm_lora.yaml", COMPILED).spec)
    assert trt.build.lora_dir == ("/models/lora/sql", "/models/lora/support")
    assert trt.plugin_config.lora_plugin == "auto"


def test_environment_of_tgi() -> None:
    imported = read("tgi.env")
    spec, trt = imported.spec, settings(imported.spec)
    assert spec.source.uri.endswith("@0e9e39f249a16976918f6564b8830bc894c89659")
    assert (spec.engine.max_input_len, spec.engine.max_seq_len, spec.engine.max_num_tokens) == (4095, 8192, 8192)
    assert trt.backend.max_tokens_in_paged_kv_cache == 131_072
    assert (trt.tp_size, trt.quantization.qformat) == (2, "fp8")
    assert (spec.serving.max_sequences, spec.serving.max_stop_words) == (4, 8)
    assert spec.engine.max_batch_size + spec.serving.max_queue_size == 256


def test_a_docker_line_of_tgi() -> None:
    imported = read("tgi_docker.sh")
    assert imported.spec.source.uri == "hf://mistralai/Mistral-7B-Instruct-v0.3@main"
    assert settings(imported.spec).tp_size == 2
    assert settings(imported.spec).quantization.qformat == "int8_wo"
    assert fate(imported, "--rm")[0] is Fate.DROPPED


@pytest.mark.parametrize(
    ("text", "tp_size", "assumed"),
    [
        ("CUDA_VISIBLE_DEVICES=0,1,2,3", 4, True),
        ("NVIDIA_VISIBLE_DEVICES=0,1", 2, True),
        ("CUDA_VISIBLE_DEVICES=0\nNVIDIA_VISIBLE_DEVICES=0,1", 1, False),
        ("NVIDIA_VISIBLE_DEVICES=all", 1, False),
        ("CUDA_VISIBLE_DEVICES=0,1\nSHARDED=false", 1, False),
        ("CUDA_VISIBLE_DEVICES=0,1,2,3\nNUM_SHARD=2", 2, False),
    ],
)
def test_the_gpus_that_tgi_would_shard_over(text: str, tp_size: int, assumed: bool) -> None:
    imported = import_text(f"MAX_TOTAL_TOKENS=64\n{text}", "tgi", "file", SOURCED)
    assert settings(imported.spec).tp_size == tp_size
    entries = [e for e in imported.account if e.fate is Fate.ASSUMED and e.key == "engine.tensorrt_llm.tp_size"]
    assert bool(entries) == assumed
    assert not [entry for entry in imported.account if entry.fate is Fate.UNKNOWN]


def test_a_modelfile() -> None:
    imported = read("Modelfile")
    spec = imported.spec
    assert spec.engine.runtime is Runtime.OPENVINO
    assert spec.source.uri == str(FILES / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert (spec.engine.max_seq_len, spec.engine.num_threads, spec.serving.default_max_tokens) == (4096, 4, 128)
    assert [e.note for e in imported.account if e.field and e.field.name == "PARAMETER repeat_penalty"] == [
        "a control of the request: send repetition_penalty"
    ]


@pytest.mark.parametrize("name", ["vllm.yaml", "tgi.env", "tgi_docker.sh"])
def test_secrets_are_not_repeated(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "secret" in (FILES / name).read_text()
    assert main([str(FILES / name)]) == 0
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err


def test_every_key_of_the_rules_is_one_of_the_spec() -> None:
    for name, rule in RULES.items():
        model: Any = ModelSpec
        for part in [part for part in rule.key.split(".") if part]:
            declared = model.model_fields[part]
            kinds = (declared.annotation, *getattr(declared.annotation, "__args__", ()))
            model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        assert model is None or not rule.key, name


# --- contradictions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{max_input_len: 2048, max_output_len: 512, max_seq_len: 4096, architecture: llama}",
         "max_output_len 512 and max_seq_len 4096 contradict each other"),
        ("{max_input_len: 4096, max_seq_len: 4096, architecture: llama}",
         "max_input_len must be < max_seq_len 4096 (one token of answer must fit), got 4096"),
        ("{tp_size: 4, world_size: 8, max_seq_len: 4096, architecture: llama}",
         "world_size must be tp_size * pp_size = 4, got 8"),
        ("{use_flash_attention: true, context_fmha: false, max_seq_len: 4096, architecture: llama}",
         "use_flash_attention True and context_fmha False contradict each other"),
        ("{use_smooth_quant: true, use_fp8: true, max_seq_len: 4096, architecture: llama}",
         "use_smooth_quant True and use_fp8 True contradict each other"),
        ("{paged_kv_cache: false, max_seq_len: 4096, architecture: llama}", "paged_kv_cache must be true"),
        ("{architecture: T5ForConditionalGeneration, max_seq_len: 512}",
         "architecture must be a decoder-only model, one of LlamaForCausalLM"),
        ("{max_output_len: 512, architecture: llama}", "max_output_len needs max_input_len"),
        ("{max_batch_size: many, max_seq_len: 9, architecture: llama}",
         "max_batch_size must be a whole number >= 1, got many"),
        ("{quant_algo: W4A16_GPTQ, max_seq_len: 9, architecture: llama}", "quant_algo must be one of no_quant"),
        ("{tp_size: 1, architecture: llama}", "the file does not say how long a sequence gets"),
        ("{max_num_tokens: 8, max_seq_len: 32, architecture: llama}", "engine.max_num_tokens"),
        ("[1, 2]", "file must hold a mapping"),
        ("{tp_size: 1, tp_size: 2}", "tp_size is written twice"),
        ('{"tp_size": 1, "tp_size": 2}', "tp_size is written twice"),
        ("config = {'tp_size': 1, 'tp_size': 2}", "tp_size is written twice"),
        ("{a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}}", "nested at most 8 deep"),
        ("a: &a [1, *a]", "file cannot be read: found unconstructable recursive node"),
        ("{1: 2, tp_size: 1}", "names must be text, got 1"),
        ("tp_size: [", "file cannot be read"),
    ],
)  # fmt: skip
def test_settings_of_tensorrt_llm_that_cannot_be(text: str, message: str) -> None:
    assert message in refusal(text, "trtllm")


def test_a_part_that_is_repeated_without_end_is_refused() -> None:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{c}: &{c} [{', '.join(['*' + p] * 10)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)
    )
    assert "must hold at most 10000 values" in refusal(laughs, "trtllm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-num-batched-tokens: 64\nmax-num-seqs: 128\nmax-model-len: 64",
         "max-num-batched-tokens must be >= max-num-seqs 128, got 64"),
        ("max-num-batched-tokens: 2048\nmax-model-len: 4096\nenable-chunked-prefill: false",
         "max-num-batched-tokens must be >= max-model-len 4096 without chunked prefill, got 2048"),
        ("enable-prefix-caching: true\nno-enable-prefix-caching: true\nmax-model-len: 64",
         "enable-prefix-caching and no-enable-prefix-caching contradict each other"),
        ("gpu-memory-utilization: 1.5\nmax-model-len: 64",
         "gpu-memory-utilization must be a number in (0, 1], got 1.5"),
        ("quantization: gptq\nmax-model-len: 64", "quantization must be one of none"),
        ("dtype: int8\nmax-model-len: 64", "dtype must be one of auto"),
        ("tensor-parallel-size: 2\ntensor_parallel_size: 4\nmax-model-len: 64",
         "tensor_parallel_size is written twice (line 2)"),
        ("tensor-parallel-size: true\nmax-model-len: 64", "tensor-parallel-size must be a whole number >= 1, got True"),
        ("block-size: 24\nmax-model-len: 64", "must be a power of two, got 24; set by block-size (tokens_per_block)"),
        ("lora-modules: [a=/b]\nmax-model-len: 64", "lora-modules needs enable-lora: true"),
        ("max-model-len: 64\nmax-num-seqs: 100000", "engine.max_batch_size"),
        ("model:\n  a: 1", "the file does not say how long a sequence gets"),
    ],
)  # fmt: skip
def test_settings_of_vllm_that_cannot_be_compiled(text: str, message: str) -> None:
    assert message in refusal(text, "vllm", replace(SOURCED, runtime="tensorrtllm"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MAX_INPUT_LENGTH=4096\nMAX_TOTAL_TOKENS=4096", "MAX_INPUT_LENGTH must be < MAX_TOTAL_TOKENS 4096, got 4096"),
        ("MAX_INPUT_TOKENS=1000\nMAX_INPUT_LENGTH=2000\nMAX_TOTAL_TOKENS=4096",
         "MAX_INPUT_TOKENS 1000 and MAX_INPUT_LENGTH 2000 contradict each other"),
        ("MAX_INPUT_TOKENS=3000\nMAX_TOTAL_TOKENS=4096\nMAX_BATCH_PREFILL_TOKENS=2048",
         "MAX_BATCH_PREFILL_TOKENS must be >= MAX_INPUT_TOKENS 3000, got 2048"),
        ("MAX_TOTAL_TOKENS=4096\nMAX_BATCH_TOTAL_TOKENS=2048",
         "MAX_BATCH_TOTAL_TOKENS must be >= MAX_TOTAL_TOKENS 4096, got 2048"),
        ("SHARDED=false\nNUM_SHARD=4\nMAX_TOTAL_TOKENS=64", "SHARDED false and NUM_SHARD 4 contradict each other"),
        ("SHARDED=true\nMAX_TOTAL_TOKENS=64", "SHARDED true needs NUM_SHARD or CUDA_VISIBLE_DEVICES"),
        ("NUM_SHARD=4\nCUDA_VISIBLE_DEVICES=0,1\nMAX_TOTAL_TOKENS=64", "NUM_SHARD must be <= 2"),
        ("NUM_SHARD=2\ntext-generation-launcher --num-shard 4 --max-total-tokens 64",
         "NUM_SHARD 2 (line 1) and --num-shard 4 (line 2) contradict each other"),
        ("QUANTIZE=gptq\nMAX_TOTAL_TOKENS=64", "QUANTIZE must not be gptq, the format of a checkpoint"),
        ("--max-total-tokens", "--max-total-tokens must have a value"),
        ("--max-total-tokens ${TOTAL}", "uses a variable that the file does not set"),
        ("MODEL_ID='unfinished", "line 1 cannot be read"),
        ("hello world", "line 1 must hold NAME=value or --name value, got 'hello'"),
    ],
)  # fmt: skip
def test_settings_of_tgi_that_cannot_be(text: str, message: str) -> None:
    assert message in refusal(text, "tgi")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PARAMETER num_ctx 4096", "must have FROM"),
        ("FROM a.gguf\nFROM b.gguf", "FROM is written twice (lines 1 and 2)"),
        ("FROM a.gguf\nPARAMETER num_ctx 1\nPARAMETER num_ctx 2", "PARAMETER num_ctx is written twice (lines 2 and 3)"),
        ("FROM llama3.2", "FROM names a model of Ollama's registry"),
        ("FROM a.gguf\nADAPTER ./lora.gguf", "ADAPTER cannot be honoured"),
        ("FROM a.gguf\nPARAMETER num_ctx many", "PARAMETER num_ctx must be a whole number >= 2, got many"),
        ("FROM a.gguf\nPARAMETER num_ctx", "line 2: PARAMETER num_ctx must have a value"),
        ("FROM a.gguf\nPARAMETER", "line 2: PARAMETER must have a name and a value"),
        ("FROM", "line 1: FROM must have a value"),
        ('FROM a.gguf\nSYSTEM """You are', 'line 2: a """ is not closed'),
        ('FROM a.gguf\nSYSTEM "one" two', "line 2: nothing must follow a closing \", got 'two'"),
        ("FROM a.gguf\nRUN make", "line 2 must begin with one of FROM"),
        ("FROM a.gguf\nMESSAGE robot hi", "MESSAGE must be of system, user, assistant, got 'robot'"),
    ],
)  # fmt: skip
def test_modelfiles_that_cannot_be(text: str, message: str) -> None:
    assert message in refusal(text, "ollama", Given())


# --- what the person says -----------------------------------------------------------------------------------------


def test_what_a_file_does_not_say_is_asked_for() -> None:
    assert "the file names no model" in refusal("max_model_len: 64", "vllm", Given())
    assert "which architecture" in refusal("model: org/strange\nmax_model_len: 64", "vllm", COMPILED)
    said = replace(COMPILED, config={"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 512})
    spec = import_text("model: org/strange", "vllm", "file", said).spec
    assert settings(spec).architecture == "Qwen2ForCausalLM"
    assert spec.engine.max_seq_len == 512
    said = Given(architecture="LlamaForCausalLM", max_seq_len=128, name="mine")
    spec = import_text("model: org/strange", "vllm", "file", said).spec
    assert (spec.name, spec.engine.max_seq_len) == ("mine", 128)
    config = "{architecture: MistralForCausalLM, max_seq_len: 64}"
    said = Given(source="m", architecture="LlamaForCausalLM")
    assert "--architecture LlamaForCausalLM contradicts MistralForCausalLM" in refusal(config, "trtllm", said)


def test_a_checkpoint_that_is_quantized_already_is_refused() -> None:
    for model in ("TheBloke/Llama-2-7B-AWQ", "neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "org/llama-gptq"):
        text = f"model: {model}\nmax_model_len: 64"
        assert "model must be a checkpoint that is not quantized" in refusal(text, "vllm", COMPILED)
        assert import_text(text, "vllm", "file", SOURCED).spec.source.uri == LLAMA


@pytest.mark.parametrize(
    ("model", "architecture"),
    [
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "MixtralForCausalLM"),
        ("mistralai/Mistral-7B-v0.1", "MistralForCausalLM"),
        ("Qwen/Qwen2.5-7B", "Qwen2ForCausalLM"),
        ("Qwen/Qwen1.5-MoE-A2.7B", "Qwen2MoeForCausalLM"),
        ("Qwen/Qwen3-8B", "Qwen3ForCausalLM"),
        ("Qwen/Qwen3-30B-A3B", "Qwen3MoeForCausalLM"),
        ("meta-llama/Llama-3.1-8B", "LlamaForCausalLM"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "LlamaForCausalLM"),
    ],
)
def test_architectures_are_guessed_from_names_and_the_account_says_so(model: str, architecture: str) -> None:
    imported = import_text(f"model: {model}\nmax_model_len: 64", "vllm", "file", COMPILED)
    assert settings(imported.spec).architecture == architecture
    assert any("guessed" in entry.note for entry in imported.account if entry.fate is Fate.ASSUMED)


def test_unknown_fields_are_named_and_refused_only_if_asked() -> None:
    text = "model: meta-llama/Llama-3.1-8B\nmax_model_len: 64\ntensor-paralel-size: 2"
    imported = import_text(text, "vllm", "file", Given())
    assert fate(imported, "tensor-paralel-size")[0] is Fate.UNKNOWN
    assert "unknown field tensor-paralel-size" in refusal(text, "vllm", Given(strict=True))


# --- whole lists of what there is -------------------------------------------------------------------------------------


def _recorded(name: str, key: str) -> list[str]:
    path = Path(__file__).resolve().parents[1] / "reference" / name
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))[key]
    return names


def _is_known(text: str, system: str, said: Given) -> bool:
    """Whether a file with one nonsensical field is refused for its value, or the account knows the field."""
    try:
        imported = import_text(text, system, "file", said)
    except InvalidArgumentError:
        return True
    return not [entry for entry in imported.account if entry.fate is Fate.UNKNOWN]


@pytest.mark.parametrize("runtime", ["vllm", "tensorrtllm"])
def test_every_flag_of_vllm_is_mapped_or_dropped_with_a_reason(runtime: str) -> None:
    flags = _recorded("vllm_serve_0_24.json", "flags")
    said = Given(source="hf://a/b@main", architecture="LlamaForCausalLM", max_seq_len=99, runtime=runtime)
    assert len(flags) > 300
    assert [flag for flag in flags if not _is_known(f"{flag}: nonsense", "vllm", said)] == []
    assert not _is_known("unheard-of: nonsense", "vllm", said)


def test_every_variable_of_tgi_is_mapped_or_dropped_with_a_reason() -> None:
    variables = _recorded("tgi_3_3_7.json", "variables")
    said = Given(source="hf://a/b@main", architecture="LlamaForCausalLM", max_seq_len=99)
    assert len(variables) > 50
    for form in ("{0}=nonsense", "text-generation-launcher --{1} nonsense"):
        forms = {name: form.format(name, name.lower().replace("_", "-")) for name in variables}
        assert [name for name, text in forms.items() if not _is_known(text, "tgi", said)] == []
        assert not _is_known(form.format("UNHEARD_OF", "unheard-of"), "tgi", said)


def test_every_quantization_of_tgi_is_mapped_or_refused_with_a_reason() -> None:
    said = Given(source="hf://a/b@main", architecture="LlamaForCausalLM", max_seq_len=99)
    for word in _recorded("tgi_3_3_7.json", "quantize"):
        text = f"MODEL_ID=a/b\nQUANTIZE={word}"
        if word in ("awq", "eetq", "fp8", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4"):
            assert fate(import_text(text, "tgi", "file", said), "QUANTIZE")[0] is Fate.MAPPED
        else:
            assert f"QUANTIZE must not be {word}, the format of a checkpoint that is quantized" in refusal(text, "tgi")


# --- properties ---------------------------------------------------------------------------------------------------

_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10_000), st.floats(), st.text(string.printable, max_size=12),
    st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip
_VLLM_NAMES = [*yaml.safe_load((FILES / "vllm.yaml").read_text()), "enable-lora", "lora-modules", "revision",
               "enable-chunked-prefill", "enable-prefix-caching", "unheard-of"]  # fmt: skip
_TRT_NAMES = [*RULES, *Plugins.model_fields, "architecture", "max_output_len", "world_size", "lora_dir", "use_fp8",
              "use_weight_only", "weight_only_precision", "version", "kv_cache_type", "unheard_of"]  # fmt: skip


@given(
    data=st.dictionaries(st.sampled_from(_VLLM_NAMES), _VALUES, max_size=8),
    runtime=st.sampled_from(["vllm", "tensorrtllm"]),
)
@examples(200)
def test_any_vllm_file_is_imported_whole_or_refused(data: dict[str, Any], runtime: str) -> None:
    _imported_whole_or_refused(data, yaml.safe_dump(data), "vllm", runtime)


@given(data=st.dictionaries(st.sampled_from(_TRT_NAMES), _VALUES, max_size=8), system=st.just("trtllm"))
@examples(150)
def test_any_tensorrt_llm_file_is_imported_whole_or_refused(data: dict[str, Any], system: str) -> None:
    _imported_whole_or_refused(data, json.dumps(data), system)


def _imported_whole_or_refused(data: dict[str, Any], text: str, system: str, runtime: str = "vllm") -> None:
    said = Given(source="m", architecture="LlamaForCausalLM", max_seq_len=99, runtime=runtime)
    try:
        imported = import_text(text, system, "file", said)
    except InvalidArgumentError as error:
        if "\n" in error.message:
            raise
        return
    assert sorted(e.field.name for e in imported.account if e.field is not None) == sorted(data)


@given(text=st.text(max_size=200), system=st.sampled_from(["trtllm", "vllm", "tgi", "ollama"]))
@examples(300)
def test_any_text_is_imported_or_refused(text: str, system: str) -> None:
    try:
        import_text(text, system, "file", Given(source="m", architecture="LlamaForCausalLM", max_seq_len=99))
    except InvalidArgumentError:
        return


_LINES = st.lists(st.sampled_from([
    "FROM ./a.gguf", "from b", "PARAMETER num_ctx 8", "PARAMETER stop \"x\"", "PARAMETER", "SYSTEM \"\"\"", "\"\"\"",
    "TEMPLATE {{ .Prompt }}", "# FROM c", "", "  ", "SYSTEM \"open", "closed\"", "LICENSE", "MESSAGE user hi", "\x00",
    "ADAPTER x", "ünknown y", "\tPARAMETER\ttop_k\t4", "FROM a\r",
]), max_size=12)  # fmt: skip


@given(lines=_LINES)
@examples(300)
def test_any_modelfile_is_read_or_refused_and_lines_are_where_they_are(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        found = parse_modelfile(text, "Modelfile")
    except InvalidArgumentError:
        return
    for instruction in found:
        assert lines[instruction.line - 1].split()[0].upper() == instruction.name


@given(text=st.text(max_size=80))
@examples(200)
def test_any_text_becomes_a_name_of_a_spec(text: str) -> None:
    parse_spec(yaml.safe_dump({"name": as_name(text), "source": {"uri": "a.gguf"}}), "spec")


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_a_spec_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "spec.yaml"
    assert main([str(FILES / "vllm.yaml"), "--output", str(output)]) == 0
    assert load_spec(output) == read("vllm.yaml").spec
    account = capsys.readouterr().err
    assert "   7  max-num-seqs: 256  ->  engine.max_batch_size: 256" in account
    assert "15 mapped, 5 dropped, 0 unknown, 1 assumed" in account
    assert main([str(FILES / "vllm.yaml"), "--output", str(output)]) == 1
    assert f"output must not be there yet, got {output}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "cannot be read"),
        (b"nothing: known", "it is not certain whose settings these are"),
        (b"model: x\n" + b"#" * (1 << 20), "must be at most 1048576 bytes"),
        (b"", "it is not certain"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main([str(path)]) == 1
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 1
    assert main([str(FILES / "vllm.yaml"), "--gpu", "H101"]) == 1
    assert main([str(FILES / "vllm.yaml"), "--config", str(path)]) == 1
