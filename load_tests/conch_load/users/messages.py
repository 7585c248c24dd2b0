"""What controller and agents say to each other, over Locust's own connection between master and workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

PLAN = "conch_plan"  # to a worker: config, its index, how many there are
READY = "conch_ready"  # from a worker: all is made; or an error
GO = "conch_go"  # to the workers: when the run begins
RECORDS = "conch_records"  # from a worker, each second: what has ended, how it is doing
DONE = "conch_done"  # from a worker: nothing is under way any more
ALONE = "conch_alone"  # to a worker: ask some of it again, alone
ALONE_DONE = "conch_alone_done"  # from it: how the answers compare

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which machine this is, since it was last started: processes with the same share one monotonic clock."""
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.is_file() else ""


def start_in(seconds: float) -> dict[str, Any]:
    """A moment, so that every worker can find it on its own clock."""
    ahead = round(seconds * 1e9)
    return {"boot": boot_id(), "monotonic_ns": time.monotonic_ns() + ahead, "unix_ns": time.time_ns() + ahead}


def local_start_ns(start: dict[str, Any]) -> int:
    """That moment on this machine's monotonic clock; from another machine as good as the two wall clocks agree."""
    if start["boot"] and start["boot"] == boot_id():
        return int(start["monotonic_ns"])
    return time.monotonic_ns() + int(start["unix_ns"]) - time.time_ns()
