"""Where a run is made: processor, cores, memory, versions."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NICENESS = -10
_PACKAGES = ("conch", "conch-load", "locust", "gevent", "grpcio", "tritonclient", "tokenizers")


def host_facts() -> dict[str, str | int | float]:
    """Of this machine, from /proc where there is one."""
    facts: dict[str, str | int | float] = {
        "system": f"{platform.system()} {platform.release()}", "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
    }  # fmt: skip
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


def take_precedence() -> str:
    """Ask the system to run this thread as soon as it can run, until :func:`give_precedence_back`.

    A stamp is as late as the loop that takes it. On a machine that the server shares, the loop would wait for its turn
    behind the server's threads: beside a busy server its stamps were 5 to 20 ms late, and with the real-time class of
    the scheduler 0.4 ms. It takes no more processor time for it; what it takes, it takes at once. Children have the
    usual class.

    Returns:
        ``realtime``; ``high`` (a higher priority of the usual class); ``normal`` where neither is allowed.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        return "realtime"
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
        return "high"
    return "normal"


def give_precedence_back() -> None:
    """Back to the usual class."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
