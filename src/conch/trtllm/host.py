"""What this machine has: TensorRT-LLM's version and NVIDIA GPUs."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version

from conch.errors import BuildError
from conch.trtllm.engine_match import Host

_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
_TIMEOUT_S = 60


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
        said = _last_line(done.stdout + done.stderr)
        raise BuildError(f"TensorRT-LLM needs an NVIDIA GPU, and nvidia-smi says: {said}", mend=mend)
    rows = [tuple(part.strip() for part in line.split(",")) for line in done.stdout.splitlines() if line.strip()]
    try:
        kinds = {(name, capability, int(memory)) for name, capability, memory in rows}
    except ValueError:
        raise BuildError(f"nvidia-smi said what is not understood: {_last_line(done.stdout)}") from None
    if len(kinds) != 1:
        found = ", ".join(sorted(f"{name} ({capability})" for name, capability, _ in kinds)) or "none"
        raise BuildError(
            f"the GPUs must be of one kind, got {found}", mend="Build on a machine whose GPUs are alike"
        )
    ((name, capability, memory),) = kinds
    return name, capability, len(rows), memory


def find_host(container_version: str) -> Host:
    """Versions and GPUs of this machine.

    Args:
        container_version: version of TensorRT-LLM in the container that serves; counts where none is installed here.

    Raises:
        BuildError: no GPU.
    """
    name, capability, count, memory_mib = find_gpus("Serve it on a machine with an NVIDIA GPU and its driver")
    return Host(installed_version() or container_version, capability, count, name, memory_mib)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
