"""What the processes of a server cost, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from conch.contract import WORKER_MODULE

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STEAL_COLUMN = 8  # of the "cpu" line of /proc/stat, see proc(5)


def cpu_seconds() -> dict[str, float]:
    """Processor time so far of tritonserver and of each of its model processes, by name."""
    found: dict[str, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended while we looked
            continue
        program = command[0].rsplit("/", 1)[-1]
        if program == "tritonserver":
            name = program
        elif program == "triton_python_backend_stub":
            name = Path(command[1]).parts[-3]  # .../<model>/<version>/model.py
        elif WORKER_MODULE in command[:3]:
            name = "engine worker"
        else:
            continue
        found[name] = found.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


def steal_share() -> Callable[[], float]:
    """Start to watch the hypervisor; call the result for the share of processor time that was stolen since."""

    def read() -> tuple[int, int]:
        values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return values[_STEAL_COLUMN - 1], sum(values)

    stolen, total = read()

    def share() -> float:
        now_stolen, now_total = read()
        return (now_stolen - stolen) / max(1, now_total - total)

    return share
