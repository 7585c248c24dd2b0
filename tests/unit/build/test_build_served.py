"""Builds for vllm and tensorrt_llm: the checkpoint as it is, in a repository; neither package is needed for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from server_processes import ROOT
from small_models import write_small_gguf, write_small_huggingface
from small_tokenizers import write_tokenizer

from conch.build.served import check_served_model, served_plan
from conch.errors import BuildError
from conch.repository.check import check_repository
from conch.spec import Engine, Runtime

SECTIONS = {Runtime.VLLM: "vllm", Runtime.LLMAPI: "llmapi"}
LLAMA = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 8, "num_key_value_heads": 2,
         "num_hidden_layers": 4}  # fmt: skip


def build(folder: Path, runtime: Runtime, source: Path, *flags: str) -> tuple[int, str]:
    engine = {"runtime": runtime.value, "max_seq_len": 64}
    (folder / "spec.yaml").write_text(yaml.safe_dump({"name": "x", "source": {"uri": str(source)}, "engine": engine}))
    done = subprocess.run(
        [sys.executable, str(ROOT / "build_scripts/build.py"), "--spec", "spec.yaml", "--repository", "repository",
         "--cache", "cache", *flags],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def small_checkpoint(folder: Path) -> Path:
    """A checkpoint folder with code and a pickle in it, which no build takes."""
    write_tokenizer(folder / "tokenizer")
    model = write_small_huggingface(folder / "model", (folder / "tokenizer/tokenizer.json").read_text())
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **LLAMA, "vocab_size": 700}))
    (model / "modeling_own.py").write_text("raise SystemExit")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    return model


@pytest.mark.parametrize("runtime", SECTIONS)
def test_a_repository_with_the_checkpoint_in_it(runtime: Runtime, tmp_path: Path) -> None:
    model = small_checkpoint(tmp_path)
    status, said = build(tmp_path, runtime, model)
    assert status == 0, said
    package = {Runtime.VLLM: "vllm 0.24.0", Runtime.LLMAPI: "tensorrt_llm 1.2.1"}[runtime]
    assert f"note: {package} serves it, and is not installed in {sys.executable}" in said
    assert "note: name the Python of an environment that has it with CONCH_ENGINE_PYTHON" in said
    engine_dir = tmp_path / "repository/llama_engine/1/engine"
    assert sorted(path.name for path in engine_dir.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (engine_dir / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert not (engine_dir / "model.safetensors").samefile(model / "model.safetensors")  # the user's may change
    release = check_repository(tmp_path / "repository")
    assert (release.version, release.backend_slots) == (1, 0)
    manifest = json.loads((tmp_path / "repository/llama_engine/1/manifest.json").read_text())
    name, version = package.split()
    assert manifest["provenance"]["tools"][name] == version
    assert "nothing to do" in build(tmp_path, runtime, model)[1]
    status, plan = build(tmp_path, runtime, model, "--dry-run")
    assert (status, f"served by {package}, of the Python that CONCH_ENGINE_PYTHON names; GPUs: " in plan) == (0, True)


@pytest.mark.parametrize("runtime", SECTIONS)
def test_a_gguf_file_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    status, said = build(tmp_path, runtime, write_small_gguf(tmp_path / "model.gguf"))
    assert status == 1
    assert f"source.uri must be a Hugging Face model for the runtime {runtime.value}, got a GGUF file" in said


@pytest.mark.parametrize("runtime", SECTIONS)
@pytest.mark.parametrize(
    ("config", "section", "message"),
    [
        ({"architectures": ["T5ForConditionalGeneration"]}, {}, "must name a decoder-only model"),
        ({"architectures": None}, {}, "must name a decoder-only model"),
        ({}, {"tensor_parallel_size": 3}, "tensor_parallel_size must divide the model's 8 heads, got 3"),
        ({"num_attention_heads": 12, "num_key_value_heads": 4}, {"tensor_parallel_size": 6},
         "tensor_parallel_size must divide the model's 4 heads of keys and values, or be a multiple of them, got 6"),
        ({}, {"pipeline_parallel_size": 5}, "pipeline_parallel_size must be at most 4, the layers, got 5"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit(
    runtime: Runtime, config: dict[str, Any], section: dict[str, Any], message: str
) -> None:
    engine = Engine.model_validate({"runtime": runtime.value, SECTIONS[runtime]: section})
    assert engine.served is not None
    with pytest.raises(BuildError) as caught:
        check_served_model({**LLAMA, **config}, engine.served)
    assert message in caught.value.message
    if section:
        assert caught.value.message.startswith(f"engine.{SECTIONS[runtime]}.")


@pytest.mark.parametrize("runtime", SECTIONS)
def test_models_that_fit(runtime: Runtime) -> None:
    for size in (1, 2, 4, 8):
        section = {"tensor_parallel_size": size, "pipeline_parallel_size": 4}
        engine = Engine.model_validate({"runtime": runtime.value, SECTIONS[runtime]: section})
        assert engine.served is not None
        check_served_model(LLAMA, engine.served)
        assert served_plan(engine)[-1].endswith(f"GPUs: {4 * size}")
