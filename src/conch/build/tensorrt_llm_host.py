"""Where TensorRT-LLM can be run: here, or in its container; asked before anything is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from conch.build.children import last_lines
from conch.errors import BuildError
from conch.spec_trtllm import CONTAINERS, TensorRtLlm, require_arithmetic
from conch.trtllm.commands import EXAMPLES_DIR
from conch.trtllm.engine_match import Host

EXAMPLES_VARIABLE = "CONCH_TRTLLM_EXAMPLES"
# Set in Triton's containers: their release, which is the tag's.
CONTAINER_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
_TIMEOUT_S = 60


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


def installed_version() -> str | None:
    """Version of TensorRT-LLM that this Python has; it is not imported, which would take a GPU's memory."""
    try:
        return version("tensorrt_llm")
    except PackageNotFoundError:
        return None


def find_gpus(mend: str) -> tuple[str, str, int, int]:
    """Name, compute capability and number of the GPUs, and the memory of each in MiB.

    Args:
        mend: what to do where there is none, for messages.

    Raises:
        BuildError: there is none, they differ, or the driver does not answer.
    """
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise BuildError("TensorRT-LLM needs an NVIDIA GPU, and nvidia-smi is not here", mend=mend) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"nvidia-smi did not answer: {error}", mend=mend) from None
    if done.returncode:
        said = last_lines(done.stdout + done.stderr, 1)
        raise BuildError(f"TensorRT-LLM needs an NVIDIA GPU, and nvidia-smi says: {said}", mend=mend)
    rows = [tuple(part.strip() for part in line.split(",")) for line in done.stdout.splitlines() if line.strip()]
    try:
        kinds = {(name, capability, int(memory)) for name, capability, memory in rows}
    except ValueError:
        raise BuildError(f"nvidia-smi said what is not understood: {last_lines(done.stdout, 1)}") from None
    if len(kinds) != 1:
        found = ", ".join(sorted(f"{name} ({capability})" for name, capability, _ in kinds)) or "none"
        raise BuildError(
            f"the GPUs must be of one kind, got {found}", mend="Build on a machine whose GPUs are alike"
        )
    ((name, capability, memory),) = kinds
    return name, capability, len(rows), memory


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
        carried = CONTAINERS.get(container[:5], "none that is known")
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
