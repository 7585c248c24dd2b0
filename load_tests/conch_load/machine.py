"""Where a run is made: processor, cores, memory, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NICENESS, _SWITCH_S = -10, 0.0005
_PACKAGES = ("conch", "conch-load", "locust", "gevent", "grpcio", "tritonclient", "tokenizers")


def host_facts() -> dict[str, str | int | float]:
    """Of this machine, from /proc where there is one."""
    facts: dict[str, str | int | float] = {
        "system": f"{platform.system()} {platform.release()}", "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
    }  # fmt: skip
    if hasattr(os, "getpriority"):
        facts["niceness"] = os.getpriority(os.PRIO_PROCESS, 0)
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            facts["processor"] = line.partition(":")[2].strip()
            break
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            facts["memory_gib"] = round(int(line.split()[1]) / 2**20, 1)
            break
    if load := _lines("/proc/loadavg"):
        facts["load_before"] = float(load[0].split()[0])
    return facts


def versions() -> dict[str, str]:
    """Of Python and the packages that take part."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def take_precedence() -> int:
    """Ask the system to run this process before others, and Python to let its loop run soon.

    A stamp is as late as the loop that takes it. On a machine that the server shares, the loop would wait for its turn
    behind the server's threads; and gRPC's own threads, which hand messages to the loop, for Python's lock.

    Returns:
        The niceness that was got: -10 for root, else what it was.
    """
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    return os.getpriority(os.PRIO_PROCESS, 0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
