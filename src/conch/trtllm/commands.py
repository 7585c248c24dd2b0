"""The two commands that make an engine: convert or quantize the checkpoint, then trtllm-build.

Every setting that a command has and the spec names is written out, defaults too: what was built can be read from the
command. Files and folders stand in the arguments as the caller wants them, so that a plan can print names for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from conch.spec import Engine
from conch.spec_trtllm import CONVERTERS, TensorRtLlm

# Where Triton's containers have TensorRT-LLM's example scripts.
EXAMPLES_DIR = "/app/examples"
BUILD_COMMAND = "trtllm-build"
TIMING_CACHE = "model.cache"


def checkpoint_command(settings: TensorRtLlm, model_dir: str, output_dir: str, examples_dir: str) -> list[str]:
    """Turn a Hugging Face checkpoint into one of TensorRT-LLM's: quantized if the spec says so, cut up for the ranks.

    Args:
        settings: section ``engine.tensorrt_llm`` of the spec.
        model_dir: Hugging Face folder.
        output_dir: where config.json and rank*.safetensors go.
        examples_dir: folder of TensorRT-LLM's examples.
    """
    values: dict[str, object] = {
        "model_dir": model_dir, "output_dir": output_dir, "dtype": settings.dtype,
        "tp_size": settings.tp_size, "pp_size": settings.pp_size,
    }  # fmt: skip
    if not settings.quantization.needed:
        script = f"{examples_dir}/models/core/{CONVERTERS[settings.architecture]}/convert_checkpoint.py"
        return ["python3", script, *_arguments({**values, "workers": settings.build.workers})]
    chosen = settings.quantization.model_dump(mode="json")
    if settings.quantization.qformat not in ("int4_awq", "w4a8_awq"):
        del chosen["awq_block_size"]
    return ["python3", f"{examples_dir}/quantization/quantize.py", *_arguments({**values, **chosen})]


def engine_command(engine: Engine, settings: TensorRtLlm, checkpoint_dir: str, output_dir: str) -> list[str]:
    """Compile a checkpoint of TensorRT-LLM's.

    Args:
        engine: section ``engine`` of the spec.
        settings: its section ``tensorrt_llm``.
        checkpoint_dir: what checkpoint_command made.
        output_dir: where config.json and rank*.engine go.
    """
    assert engine.max_seq_len is not None
    build = settings.build.model_dump(mode="json")
    plugins = {
        name: ("enable" if value else "disable") if isinstance(value, bool) else value or "disable"
        for name, value in settings.plugin_config.model_dump(mode="json").items()
    }
    if settings.plugin_config.lora_plugin is None:
        for name in ("lora_dir", "lora_ckpt_source", "lora_target_modules", "max_lora_rank"):
            del build[name]
    values: dict[str, object] = {
        "checkpoint_dir": checkpoint_dir, "output_dir": output_dir,
        "max_batch_size": engine.max_batch_size,
        "max_input_len": engine.max_input_len or engine.max_seq_len - 1,
        "max_seq_len": engine.max_seq_len,
        "max_num_tokens": engine.max_num_tokens,
        **build, **plugins,
        "output_timing_cache": f"{output_dir}/{TIMING_CACHE}",  # trtllm-build would leave it in the working directory
    }  # fmt: skip
    return [BUILD_COMMAND, *_arguments(values)]


def container_command(
    command: list[str], image: str, folders: list[str], user: str, id_file: str | None = None
) -> list[str]:
    """The same command in a container, with the same paths.

    Args:
        command: program and arguments.
        image: container.
        folders: absolute; the container sees them where they are.
        user: "uid:gid" that the files shall belong to.
        id_file: where Docker writes the container's id, for ``docker kill``; None: nowhere.
    """
    mounts = [part for folder in folders for part in ("--volume", f"{folder}:{folder}")]
    named = [] if id_file is None else ["--cidfile", id_file]
    # --init: without it the command is the container's first process, which SIGTERM does not end.
    return [
        "docker", "run", "--rm", "--init", *named, "--gpus", "all", "--ipc", "host", "--ulimit", "memlock=-1",
        "--ulimit", "stack=67108864", "--user", user, "--env", "HOME=/tmp", "--env", "HF_TOKEN", *mounts, image,
        *command,
    ]  # fmt: skip


def _arguments(values: Mapping[str, object]) -> list[str]:
    """``--name value`` for each; a switch is there or not, and None and empty lists are left out."""
    arguments: list[str] = []
    for name, value in values.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, (list, tuple)):
            arguments += [f"--{name}", *map(str, value)] if value else []
        elif value is not None and value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments
