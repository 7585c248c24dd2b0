"""Checkpoints that a runtime serves as they are (vllm, tensorrt_llm): checked, and laid where the engine finds them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from conch.build.cache import Cache
from conch.build.compile import ENGINES, CompiledEngine
from conch.build.disk import copy_file, link_or_copy
from conch.build.huggingface import CONFIG_FILE, read_json
from conch.build.sources import Checkpoint, Format
from conch.engines.interpreter import NAME_A_PYTHON, VARIABLE, package_version_in
from conch.errors import BuildError
from conch.spec import Engine
from conch.spec_llmapi import LlmApi
from conch.spec_vllm import Vllm

_GENERATES = ("ForCausalLM", "LMHeadModel")


def lay_out_checkpoint(checkpoint: Checkpoint, engine: Engine, cache: Cache) -> CompiledEngine:
    """A folder with a checkpoint's files and nothing else. The cache must be locked.

    Args:
        checkpoint: of a Hugging Face model.
        engine: section ``engine`` of the spec, of the runtime vllm or tensorrt_llm.
        cache: see there.

    Raises:
        BuildError: another format, or a model that does not fit the spec.
    """
    settings = engine.served
    assert settings is not None
    if checkpoint.format is not Format.HUGGINGFACE:
        raise BuildError(
            f"source.uri must be a Hugging Face model for the runtime {engine.runtime.value}, got a GGUF file",
            mend="Name it as hf://org/name@revision, or its folder",
        )
    check_served_model(read_json(checkpoint.path / CONFIG_FILE), settings)

    # The user's own files are copied: a link would carry what is written into them later into the release.
    is_ours = checkpoint.path.resolve().is_relative_to(cache.root.resolve())
    lay = link_or_copy if is_ours else copy_file

    def make(files_dir: Path) -> dict[str, str]:
        for name in checkpoint.files:  # these and nothing else: no code, no pickles
            lay(checkpoint.path / name, files_dir / name)
        return {"checkpoint_sha256": checkpoint.sha256}

    entry = cache.get(ENGINES, f"checkpoint-{checkpoint.sha256}", make)
    return CompiledEngine(entry.files_dir, {_package(settings): settings.version}, entry.made)


def check_served_model(config: dict[str, Any], settings: Vllm | LlmApi) -> None:
    """Compare a model with what the spec asks of it.

    Args:
        config: the model's config.json.
        settings: section of the runtime.

    Raises:
        BuildError: not a model that generates text, or it cannot be shared out over so many GPUs.
    """
    section = f"engine.{'vllm' if isinstance(settings, Vllm) else 'llmapi'}"
    named = config.get("architectures") or []
    if not any(isinstance(name, str) and name.endswith(_GENERATES) for name in named):
        raise BuildError(f"architectures of {CONFIG_FILE} must name a decoder-only model (…ForCausalLM), got {named}")
    parts = settings.tensor_parallel_size
    heads = config.get("num_attention_heads")
    if isinstance(heads, int) and heads % parts:
        raise BuildError(f"{section}.tensor_parallel_size must divide the model's {heads} heads, got {parts}")
    kv_heads = config.get("num_key_value_heads", heads)
    if isinstance(kv_heads, int) and kv_heads % parts and parts % kv_heads:
        raise BuildError(
            f"{section}.tensor_parallel_size must divide the model's {kv_heads} heads of keys and values, or be a "
            f"multiple of them, got {parts}"
        )
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and settings.pipeline_parallel_size > layers:
        raise BuildError(
            f"{section}.pipeline_parallel_size must be at most {layers}, the layers, got "
            f"{settings.pipeline_parallel_size}"
        )


def serving_notes(settings: Vllm | LlmApi) -> list[str]:
    """What this machine lacks to serve such a release; the build needs none of it."""
    package, python = _package(settings), Path(os.environ.get(VARIABLE) or sys.executable)
    notes = []
    try:
        found = package_version_in(python, package)
    except OSError:
        found = None
    if found is None:
        notes.append(f"{package} {settings.version} serves it, and is not installed in {python}")
    elif found.split("+", 1)[0] != settings.version:
        notes.append(f"{package} {settings.version} serves it, and {python} has {found}")
    if shutil.which("nvidia-smi") is None:
        notes.append(f"it is served on NVIDIA GPUs ({settings.world_size}), and nvidia-smi is not here")
    if notes:
        notes.append(NAME_A_PYTHON[0].lower() + NAME_A_PYTHON[1:])
    return notes


def served_plan(engine: Engine) -> list[str]:
    """Lines that say what is done with a checkpoint, and what serves it."""
    settings = engine.served
    assert settings is not None
    return [
        "  no compilation: link the checkpoint's files as they are",
        f"  check that the model generates text, and that its heads can be shared by {settings.tensor_parallel_size}",
        f"  served by {_package(settings)} {settings.version}, of the Python that {VARIABLE} names; "
        f"GPUs: {settings.world_size}",
    ]


def _package(settings: Vllm | LlmApi) -> str:
    return "vllm" if isinstance(settings, Vllm) else "tensorrt_llm"
