"""Checks of the machine before anything is started: one plain sentence and its mend for each thing that is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from conch.contract import ENGINE, stages
from conch.engines.interpreter import NAME_A_PYTHON, PACKAGES, VARIABLE, package_version_in
from conch.errors import ConchError, ServerError
from conch.repository.artifacts import ENGINE_DIR
from conch.repository.check import check_repository
from conch.repository.layout import Release
from conch.repository.settings import ReleaseSettings
from conch.server import memory, procfs
from conch.server.leftovers import SHM_DIR
from conch.server.locate import Installation, Interpreter, locate, more_backends
from conch.server.settings import Settings
from conch.spec import Runtime
from conch.trtllm.tensors import BACKEND

PYTHONS = ((3, 10), (3, 12))
# Triton gives every stub a region of 1 MiB, and more as answers queue up; without room a stub dies of SIGBUS.
SHM_PER_STAGE_BYTES = 8 << 20
# tritonserver, three Python processes and what they import: 0.2 GiB measured.
BASE_BYTES = 512 << 20
# A GGUF file is unpacked as it is loaded: a 94 MiB file made the engine's process 339 MiB large.
WEIGHTS_FACTOR = 3
# Processes of vLLM 0.24.0 beside the weights: 0.9 GiB each for its front and its core, without a GPU.
WORKER_BYTES = 2 << 30
_GIB = 1 << 30


@dataclass(frozen=True)
class Ready:
    """What a server can be started from.

    Attributes:
        installation: tritonserver and its parts.
        release: what the repository's ensembles pin.
    """

    installation: Installation
    release: Release


def preflight(settings: Settings) -> tuple[Ready | None, list[ConchError]]:
    """Check everything that can be checked before the start.

    Returns:
        What to start from, None if anything is wrong; and everything that is wrong, worst first.
    """
    problems: list[ConchError] = []

    def passes(check: Callable[[], None]) -> bool:
        try:
            check()
        except ConchError as error:
            problems.append(error)
            return False
        return True

    installation: list[Installation] = []
    release: list[Release] = []
    if passes(check_platform) and passes(check_python):
        passes(lambda: installation.append(locate(Interpreter.current())))
        passes(check_numpy)
    if passes(lambda: release.append(check_repository(settings.repository))):
        passes(lambda: check_backend(release[0], more_backends(os.environ)))
        passes(lambda: check_engine_python(release[0]))
        passes(lambda: check_memory(memory_need_bytes(release[0]), memory.available_bytes()))
    passes(lambda: check_shm(SHM_DIR))
    passes(lambda: check_ports(settings))
    return (None if problems else Ready(installation[0], release[0])), problems


def check_platform(system: str = platform.system(), machine: str = platform.machine()) -> None:
    """Raise ServerError anywhere but on Linux x86_64: tritonserver is built for nothing else."""
    if (system, machine) != ("Linux", "x86_64"):
        raise ServerError(f"tritonserver runs on Linux x86_64, this is {system} {machine}", mend="Use such a machine")


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Raise ServerError for a Python that numpy below 2 or Triton's stubs do not support."""
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        raise ServerError(
            f"Python must be 3.10, 3.11 or 3.12, this is {version[0]}.{version[1]}",
            mend="Make the environment again with one of them: make distclean, then make setup PYTHON=python3.11",
        )


def check_numpy(version: str | None = None) -> None:
    """Raise ServerError for numpy 2: Triton's Python stub dies of it."""
    try:
        version = version or metadata.version("numpy")
    except metadata.PackageNotFoundError:
        raise ServerError("numpy is not installed", mend="Run `make setup`") from None
    if int(version.split(".")[0]) >= 2:
        raise ServerError(
            f"numpy must be below 2, or Triton's Python stub dies, got {version}",
            mend="Run `pip install 'numpy<2'` in this environment",
        )


def check_backend(release: Release, more: Path | None) -> None:
    """Raise ServerError for a release whose engine is of a Triton backend that this tritonserver does not have."""
    if release.backend_slots and (more is None or not (more / BACKEND).is_dir()):
        raise ServerError(
            f"{release.name} needs the backend {BACKEND}, which this tritonserver, of nvidia-pytriton, does not have",
            mend="Serve it in its container: build_scripts/launch.py says how",
        )


def check_engine_python(release: Release) -> None:
    """Raise ServerError where the Python of an engine's worker lacks vLLM or TensorRT-LLM, or has another version."""
    folder = release.path / ENGINE.name / str(release.version)
    engine = ReleaseSettings.read(folder).spec.engine
    package = PACKAGES.get(engine.runtime)
    if package is None or engine.served is None:
        return
    python = Path(os.environ.get(VARIABLE) or sys.executable)
    wanted = f"{release.name} needs {package} {engine.served.version}"
    try:
        found = package_version_in(python, package)
    except OSError as error:
        raise ServerError(f"{wanted}, and {python} cannot be run: {error.strerror}", mend=NAME_A_PYTHON) from None
    if found is None:
        raise ServerError(f"{wanted}, and it is not installed in {python}", mend=NAME_A_PYTHON)
    if found.split("+", 1)[0] != engine.served.version:
        raise ServerError(f"{wanted}, and {python} has {found}", mend=NAME_A_PYTHON)


def memory_need_bytes(release: Release) -> int:
    """Memory that serving a release takes at least: weights, KV cache and the processes."""
    folder = release.path / ENGINE.name / str(release.version)
    engine = ReleaseSettings.read(folder).spec.engine
    if engine.runtime is Runtime.ECHO:
        return BASE_BYTES
    if engine.served is not None:  # weights and KV cache are the GPUs'; vLLM's and torch's processes are ours
        return BASE_BYTES + WORKER_BYTES * engine.served.world_size
    weights = sum(path.stat().st_size for path in (folder / ENGINE_DIR).rglob("*") if path.is_file())
    return BASE_BYTES + WEIGHTS_FACTOR * weights + engine.kv_cache_gib * _GIB


def check_memory(need_bytes: int, available_bytes: int | None) -> None:
    """Raise ServerError where the machine or the control group has less memory left than needed."""
    if available_bytes is not None and available_bytes < need_bytes:
        raise ServerError(
            f"memory must be at least {need_bytes / _GIB:.1f} GiB (weights, KV cache and processes), "
            f"available are {available_bytes / _GIB:.1f} GiB",
            mend="Free some, raise the container's limit, or build with a smaller engine.kv_cache_gib or model",
        )


def check_shm(folder: Path) -> None:
    """Raise ServerError where shared memory is missing, not writable, or too small for the stubs."""
    need = len(stages(twins=True)) * SHM_PER_STAGE_BYTES
    mend = "In a container: --shm-size=64m or more"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ServerError(f"{folder}, through which Triton talks to its stubs, is missing or not writable", mend=mend)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ServerError(f"{folder} must have {need >> 20} MiB free for the stubs, it has {free >> 20} MiB", mend=mend)


def check_ports(settings: Settings) -> None:
    """Raise ServerError where another process listens on one of the ports; names it if /proc does."""
    for variable, port in settings.ports.items():
        try:
            free = procfs.can_bind(settings.host, port)
        except OSError as error:
            raise ServerError(
                f"cannot listen on {settings.host}:{port}: {error.strerror}",
                mend=f"Choose another port with {variable}, or another address with CONCH_HOST",
            ) from None
        if not free:
            raise ServerError(f"port {port} is taken{_holder(port)}", mend=f"Stop it, or choose another: {variable}")


def _holder(port: int) -> str:
    process = procfs.listener(port)
    if process is None:
        return " by another process"
    command = procfs.arguments(process.pid)
    return f" by {Path(command[0]).name if command else 'a process'} (pid {process.pid})"
