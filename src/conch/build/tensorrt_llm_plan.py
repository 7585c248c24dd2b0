"""What a build with TensorRT-LLM would run: for ``--dry-run``, and for whoever cannot run it here."""

from __future__ import annotations

import shlex
from pathlib import Path

from conch.build.huggingface import CONFIG_FILE
from conch.build.sources import local_path
from conch.build.tensorrt_llm_memory import known_config, plan_lines
from conch.errors import BuildError
from conch.spec import ModelSpec
from conch.spec_trtllm import TensorRtLlm
from conch.text.files import CHAT_TEMPLATE_FILE, META_FILE, TOKENIZER_FILE
from conch.trtllm.commands import EXAMPLES_DIR, checkpoint_command, container_command, engine_command
from conch.trtllm.engine_match import BUILD_FILE
from conch.trtllm.parameters import backend_parameters

TOKENIZER_LINE = f"  make {TOKENIZER_FILE}, {CHAT_TEMPLATE_FILE} if the model has one, {META_FILE}; try them out"
# Folders of a build, as variables of a shell: their names in the cache depend on what is in them.
MODEL, CHECKPOINT, ENGINE = "$MODEL", "$CHECKPOINT", "$ENGINE"


def plan_compile(spec: ModelSpec, folder: Path | None) -> list[str]:
    """Lines that say how a spec of the runtime tensorrtllm would be compiled.

    Args:
        spec: of that runtime.
        folder: the checkpoint, if it is on this machine.

    Raises:
        BuildError: the model cannot be cut up or quantized as the spec asks, or is a GGUF file.
    """
    settings = _settings(spec)
    path = local_path(spec.source)
    if spec.source.uri.startswith("pypi://") or (path is not None and path.is_file()):
        raise no_gguf()
    return [
        *_preflight_lines(settings),
        "",
        "memory",
        *plan_lines(spec, *known_config(spec, folder)),
        "",
        "compile",
        TOKENIZER_LINE,
        f"  {MODEL} is the fetched folder, {CHECKPOINT} and {ENGINE} are new folders of the cache",
        "  the checkpoint",
        f"    {_shown(_checkpoint(settings))}",
        "  the engine",
        f"    {_shown(_engine(spec))}",
        f"  where TensorRT-LLM is not installed, each in its container: {settings.container}",
        f"    {_shown(_in_container(settings, _checkpoint(settings), [CHECKPOINT, MODEL]))}",
        f"    {_shown(_in_container(settings, _engine(spec), [ENGINE, CHECKPOINT, *settings.build.lora_dir]))}",
        f"  note version and GPU in {BUILD_FILE}; check that {settings.world_size} ranks are there",
        "",
        "parameters of the backend",
        *(f"  {name} = {value}".rstrip() for name, value in backend_parameters(spec.engine, settings, 1).items()),
    ]


def no_gguf() -> BuildError:
    """The refusal of a source that TensorRT-LLM's scripts cannot read."""
    return BuildError(
        "source.uri must be a Hugging Face model for the runtime tensorrtllm, got a GGUF file",
        mend="Name it as hf://org/name@revision, or its folder",
    )


def how_to_build(spec: ModelSpec) -> str:
    """What to do where nothing of this can be run; several lines."""
    settings = _settings(spec)
    return "\n".join(
        [
            "Run the same command on a machine with an NVIDIA GPU and Docker. It fetches the model into $MODEL, makes",
            "the folders $CHECKPOINT and $ENGINE, and runs:",
            f"  {_shown(_in_container(settings, _checkpoint(settings), [CHECKPOINT, MODEL]))}",
            f"  {_shown(_in_container(settings, _engine(spec), [ENGINE, CHECKPOINT, *settings.build.lora_dir]))}",
        ]
    )


def engine_files(settings: TensorRtLlm) -> list[str]:
    """Files of a compiled engine."""
    return [CONFIG_FILE, BUILD_FILE, *(f"rank{rank}.engine" for rank in range(settings.world_size))]


def _preflight_lines(settings: TensorRtLlm) -> list[str]:
    gpu = settings.compute_capability
    return [
        "before anything is fetched",
        f"  TensorRT-LLM {settings.version}, installed or in {settings.container} with Docker",
        f"  NVIDIA GPUs of one kind, of compute capability {gpu}" if gpu else "  NVIDIA GPUs of one kind",
        "before weights are fetched",
        f"  config.json: {settings.architecture}, its heads, layers, context and columns fit the spec",
        "  room for weights and a sequence on the GPUs, and on the disk for the checkpoint and what is made of it",
        "before it is compiled",
        "  room on the disk for the engine",
    ]


def _settings(spec: ModelSpec) -> TensorRtLlm:
    assert spec.engine.tensorrt_llm is not None
    return spec.engine.tensorrt_llm


def _checkpoint(settings: TensorRtLlm) -> list[str]:
    return checkpoint_command(settings, MODEL, CHECKPOINT, EXAMPLES_DIR)


def _engine(spec: ModelSpec) -> list[str]:
    return engine_command(spec.engine, _settings(spec), CHECKPOINT, ENGINE)


def _in_container(settings: TensorRtLlm, command: list[str], folders: list[str]) -> list[str]:
    return container_command(command, settings.container, folders, "$(id -u):$(id -g)")


def _shown(command: list[str]) -> str:
    """As a shell takes it; variables stay variables."""
    return " ".join(f'"{part}"' if "$" in part else shlex.quote(part) for part in command)
