"""Where TensorRT-LLM can be run: here, or in its container; asked before anything is fetched."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from conch.errors import BuildError
from conch.spec_trtllm import TensorRtLlm, require_arithmetic
from conch.trtllm.commands import EXAMPLES_DIR
from conch.trtllm.engine_match import Host
from conch.trtllm.host import CONTAINER_VARIABLE, carried_version, find_gpus, found_in_image, installed_version

EXAMPLES_VARIABLE = "CONCH_TRTLLM_EXAMPLES"


@dataclass(frozen=True)
class Workplace:
    """Where the commands of a build are run.

    Attributes:
        host: versions and GPUs.
        container: image that the commands are run in; None: they are run as they are.
        examples_dir: folder of TensorRT-LLM's example scripts there.
    """

    host: Host
    container: str | None
    examples_dir: str


def find_workplace(settings: TensorRtLlm, how_to: str) -> Workplace:
    """Find out where the commands can be run, and whether this machine can build what the spec asks for.

    Args:
        settings: section ``engine.tensorrt_llm`` of the spec.
        how_to: what to do where nothing can be run, for messages.

    Raises:
        BuildError: no GPU, another GPU, another version, another container, or neither TensorRT-LLM nor Docker.
    """
    found, container = installed_version(), os.environ.get(CONTAINER_VARIABLE)
    if container is not None and found is None:
        carried = carried_version(container) or "none that is known"
        raise BuildError(
            f"TensorRT-LLM {settings.version} is needed, and this container ({container}) has none in this Python; its "
            f"tag carries {carried}",
            mend=f"Use {settings.container}, and the Python of its virtual environment",
        )
    if found is not None and found != settings.version:
        where = f"this container ({container})" if container else "this environment"
        raise BuildError(
            f"engine.tensorrt_llm.version is {settings.version}, and {where} has {found}",
            mend=f"Use {settings.container}",
        )
    if found is None and shutil.which("docker") is None:
        raise BuildError("TensorRT-LLM is not installed here, and Docker, to run its container, is not either",
                         mend=how_to)  # fmt: skip
    if found is None:
        _require_version_in_image(settings)
    name, capability, count, memory_mib = find_gpus(how_to)
    host = Host(settings.version, capability, count, name, memory_mib)
    require_gpu(settings, host)
    examples = os.environ.get(EXAMPLES_VARIABLE) or EXAMPLES_DIR
    if found is not None and not Path(examples).is_dir():
        raise BuildError(
            f"TensorRT-LLM's example scripts must be in {examples}, which is not there",
            mend=f"Name their folder with {EXAMPLES_VARIABLE}",
        )
    return Workplace(host, None if found else settings.container, examples)


def _require_version_in_image(settings: TensorRtLlm) -> None:
    """Refuse an image that says it was made from another container; one that says nothing is told by its engine."""
    found = found_in_image(settings.container)
    if found is not None and found.version != settings.version:
        has = f"has {found.version}" if found.version else "is not known to carry it"
        raise BuildError(f"engine.tensorrt_llm.version is {settings.version}, and {found.where} {has}")


def require_gpu(settings: TensorRtLlm, host: Host) -> None:
    """Check that a GPU is the one that the spec compiles for, and has the arithmetic for it.

    Raises:
        BuildError: it is not, or has not.
    """
    wanted = settings.compute_capability
    if wanted is not None and wanted != host.compute_capability:
        raise BuildError(
            f"engine.tensorrt_llm.compute_capability is {wanted}, and this machine has {host.compute_capability} "
            f"({host.gpu_name})",
            mend="An engine is compiled on the kind of GPU that it runs on",
        )
    try:
        require_arithmetic(settings, host.compute_capability)
    except ValueError as error:
        raise BuildError(f"engine.tensorrt_llm.{error}") from None
    if settings.build.workers > host.gpus:
        raise BuildError(
            f"engine.tensorrt_llm.build.workers must be at most {host.gpus}, the GPUs, got {settings.build.workers}"
        )
