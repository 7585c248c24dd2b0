"""What this machine has: TensorRT-LLM's version and NVIDIA GPUs."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version

from conch.errors import BuildError
from conch.spec_trtllm import CONTAINERS, image_tag
from conch.trtllm.engine_match import Found, Host

_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
_TIMEOUT_S = 60
# Set in Triton's containers, and in images made from them: their release, which is the tag's.
CONTAINER_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"


def installed_version() -> str | None:
    """Version of TensorRT-LLM that this Python has; it is not imported, which would take a GPU's memory."""
    try:
        return version("tensorrt_llm")
    except PackageNotFoundError:
        return None


def found_here() -> Found | None:
    """The TensorRT-LLM that is here: installed, or in the container around; None where neither can be known."""
    installed, container = installed_version(), os.environ.get(CONTAINER_VARIABLE)
    where = f"this container ({container})" if container else "this environment"
    if installed is not None:
        return Found(installed, where)
    return Found(carried_version(container), where) if container else None


def found_in_image(image: str) -> Found | None:
    """The TensorRT-LLM in an image: by its tag, else by what Docker says of it; None where neither tells."""
    tag = image_tag(image)
    if tag is not None:
        return Found(carried_version(tag), f"the image {image}")
    release = _release_in_image(image)
    return Found(carried_version(release), f"the image {image} ({release})") if release else None


def carried_version(release: str) -> str | None:
    """Version of TensorRT-LLM in a release of Triton's containers, such as "26.07"; None where it is not known."""
    return CONTAINERS.get(release[:5])


def _release_in_image(image: str) -> str | None:
    """The release that an image on this machine has among its variables; None where Docker or the image is not here."""
    command = ["docker", "image", "inspect", "--format", "{{json .Config.Env}}", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        variables = json.loads(done.stdout) if done.returncode == 0 else []
        return next((v.split("=", 1)[1] for v in variables or [] if v.startswith(f"{CONTAINER_VARIABLE}=")), None)
    except (OSError, subprocess.TimeoutExpired, ValueError, AttributeError):
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


def find_host() -> Host:
    """GPUs of this machine, and the TensorRT-LLM that is here, if that can be known.

    Raises:
        BuildError: no GPU.
    """
    name, capability, count, memory_mib = find_gpus("Serve it on a machine with an NVIDIA GPU and its driver")
    here = found_here()
    return Host(here.version if here else None, capability, count, name, memory_mib)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
