"""Stubs of tritonserver: who they are, and what one that was killed leaves behind."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from conch.server import procfs
from conch.server.procfs import Process

SHM_DIR = Path("/dev/shm")
STUB = "triton_python_backend_stub"
_END_TIMEOUT_S = 10.0  # a large process takes a while to give its memory back


@dataclass(frozen=True)
class Stub:
    """A stage's process.

    Attributes:
        process: its process.
        model, version: what it runs.
        region: name of its shared memory in SHM_DIR.
    """

    process: Process
    model: str
    version: str
    region: str


def as_stub(process: Process) -> Stub | None:
    """A process as a stub; None where it is something else."""
    arguments = procfs.arguments(process.pid)
    if len(arguments) < 3 or Path(arguments[0]).name != STUB:
        return None
    model_file = Path(arguments[1])
    return Stub(process, model_file.parent.parent.name, model_file.parent.name, arguments[2])


def kill_group(leader_pid: int) -> None:
    """SIGKILL to a process group, if there is one, and wait for its end.

    A group's id is not given out again as long as it has a member.
    """
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + _END_TIMEOUT_S
    while procfs.group(leader_pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def remove_leftovers(regions: set[str]) -> None:
    """Kill stubs that outlived their server, and remove the shared memory of these regions.

    A region's name is random and new for every stub, so nobody else's is touched.
    """
    strays = [stub for stub in _all_stubs() if stub.region in regions]
    for stub in strays:
        try:
            os.kill(stub.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    while any(stub.process.alive for stub in strays):
        time.sleep(0.01)
    for region in regions:
        (SHM_DIR / region).unlink(missing_ok=True)


def _all_stubs() -> list[Stub]:
    found = (procfs.process(pid) for pid in procfs.pids())
    return [stub for process in found if process is not None and (stub := as_stub(process)) is not None]
