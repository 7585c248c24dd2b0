"""What a compiled engine was made for, and whether that is what there is: asked before Triton loads it.

TensorRT engines run on the version of TensorRT-LLM and the GPU architecture that they were compiled with, and with as
many ranks. The backend finds out while it loads, in words of its own; here both sides are named first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conch.errors import RepositoryError
from conch.spec_trtllm import VERSION, TensorRtLlm

CONFIG_FILE = "config.json"
BUILD_FILE = "conch_build.json"  # what TensorRT-LLM does not write down
_BUILD_AGAIN = "Build the engine again, on such a machine"


@dataclass(frozen=True)
class Host:
    """Where an engine is compiled or loaded.

    Attributes:
        tensorrt_llm: version of TensorRT-LLM there; None where it is not known.
        compute_capability: of its GPUs, such as "9.0".
        gpus: number of them.
        gpu_name: as nvidia-smi says it.
        gpu_memory_mib: of each.
    """

    tensorrt_llm: str | None
    compute_capability: str
    gpus: int
    gpu_name: str = ""
    gpu_memory_mib: int = 0


@dataclass(frozen=True)
class Found:
    """A TensorRT-LLM that would load an engine.

    Attributes:
        version: None for a container that is not known to carry one.
        where: what has it, for messages.
    """

    version: str | None
    where: str


@dataclass(frozen=True)
class CompiledFor:
    """What an engine was compiled for.

    Attributes:
        tensorrt_llm: version of TensorRT-LLM.
        tp_size, pp_size: ranks.
        compute_capability: of the GPU; None where nobody wrote it down.
        gpu_name: of that GPU.
    """

    tensorrt_llm: str
    tp_size: int
    pp_size: int
    compute_capability: str | None = None
    gpu_name: str = ""


def write_build_file(engine_dir: Path, host: Host) -> None:
    """Note where an engine was compiled."""
    text = json.dumps(asdict(host), indent=2, sort_keys=True)
    (engine_dir / BUILD_FILE).write_text(text + "\n", encoding="utf-8")


def read_engine(engine_dir: Path) -> CompiledFor:
    """What an engine folder holds.

    Raises:
        RepositoryError: it is no engine, or only half of one.
    """
    config = _read(engine_dir / CONFIG_FILE)
    if "pretrained_config" not in config:  # before 0.8 it had other sections
        raise RepositoryError(f"{engine_dir / CONFIG_FILE} is not of an engine of TensorRT-LLM {VERSION}")
    try:
        mapping = config["pretrained_config"]["mapping"]
        build = _read(engine_dir / BUILD_FILE) if (engine_dir / BUILD_FILE).exists() else {}
        found = CompiledFor(
            str(config["version"]), int(mapping["tp_size"]), int(mapping["pp_size"]),
            build.get("compute_capability"), str(build.get("gpu_name", "")),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise RepositoryError(
            f"{engine_dir / CONFIG_FILE} must name version and mapping, and does not: {type(error).__name__} {error}"
        ) from None
    for rank in range(found.tp_size * found.pp_size):
        path = engine_dir / f"rank{rank}.engine"
        if not path.is_file() or not path.stat().st_size:
            raise RepositoryError(
                f"{path} is missing or empty: the engine has {found.tp_size * found.pp_size} ranks",
                mend="Build it again: it was not finished",
            )
    return found


def check_spec(engine: CompiledFor, settings: TensorRtLlm) -> None:
    """Compare an engine with the spec that it is served with.

    Raises:
        RepositoryError: they differ; names both sides.
    """
    _compare("TensorRT-LLM", engine.tensorrt_llm, "the spec", settings.version)
    _compare("tp_size", engine.tp_size, "the spec", settings.tp_size)
    _compare("pp_size", engine.pp_size, "the spec", settings.pp_size)
    if settings.compute_capability is not None and engine.compute_capability is not None:
        _compare("compute capability", engine.compute_capability, "the spec", settings.compute_capability)


def check_version(compiled: str, found: Found, container: str) -> None:
    """Compare the version of TensorRT-LLM that an engine was compiled with, and the one that would load it.

    Args:
        compiled: the engine's.
        found: the other.
        container: one that carries the engine's, for the message.

    Raises:
        RepositoryError: they differ, or the other is not known; names both sides.
    """
    if compiled != found.version:
        has = f"has {found.version}" if found.version else "is not known to carry it"
        raise RepositoryError(
            f"the engine was compiled for TensorRT-LLM {compiled}, and {found.where} {has}",
            mend=f"Serve it in {container}, or an image made from it",
        )


def check_host(engine: CompiledFor, host: Host, num_nodes: int = 1) -> None:
    """Compare an engine with the machine that shall load it.

    Args:
        engine: see read_engine.
        host: that machine; with several, each has as many GPUs.
        num_nodes: machines.

    Raises:
        RepositoryError: it cannot run there; names both sides.
    """
    if host.tensorrt_llm is not None:
        _compare("TensorRT-LLM", engine.tensorrt_llm, "this machine", host.tensorrt_llm)
    if engine.compute_capability is not None:
        _compare("compute capability", engine.compute_capability, "this machine", host.compute_capability)
    ranks = engine.tp_size * engine.pp_size
    if host.gpus * num_nodes < ranks:
        raise RepositoryError(
            f"the engine was compiled for {ranks} GPUs (tp_size {engine.tp_size}, pp_size {engine.pp_size}), and "
            f"there are {host.gpus * num_nodes}",
            mend=f"Serve it with {ranks} GPUs, or build it for fewer",
        )


def _compare(what: str, compiled: object, where: str, found: object) -> None:
    if compiled != found:
        raise RepositoryError(
            f"the engine was compiled for {what} {compiled}, and {where} has {found}", mend=_BUILD_AGAIN
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(
            f"{path} cannot be read: {error}", mend="Build the engine again: it was not finished"
        ) from None
    if not isinstance(data, dict):
        raise RepositoryError(f"{path} must hold a JSON object")
    return data
