"""Processes that an engine's worker started: found and ended after it, whatever became of it.

vLLM computes in processes of its own, and they outlive one that was killed: they would keep the GPUs' memory from the
next worker. They are found by a mark in the environment, which children inherit, and grandchildren.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

_MARK = "CONCH_ENGINE_WORKER"
_TRACKER = b"multiprocessing.resource_tracker"
_PROC = Path("/proc")
_END_TIMEOUT_S = 10.0
_GRACE_S = 15.0  # of a worker that was left alone, to end by itself


def marked_environment() -> dict[str, str]:
    """The environment for a new worker, with a mark that no other has."""
    # The second: vLLM renames its processes, which would write over the environment that others can see.
    return {**os.environ, _MARK: secrets.token_hex(16), "SPT_NOENV": "1"}


def end_offspring(environment: dict[str, str]) -> int:
    """Kill every process with the mark of an environment but this one, and wait for their end; how many there were.

    Python's resource tracker is left alone: it ends by itself, and removes the shared memory of the others then.
    """
    mark = f"{_MARK}={environment[_MARK]}".encode()
    found = [pid for pid in _pids() if pid != os.getpid() and mark in _read(pid, "environ").split(b"\0")]
    pids = [pid for pid in found if _TRACKER not in _read(pid, "cmdline")]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_TIMEOUT_S
    while any(mark in _read(pid, "environ") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(pids)


def end_when_left_alone(fd: int) -> None:
    """End this process and its offspring when the other side of a socket goes, and it does not end by itself then.

    A worker that loads, or hangs, does not read its socket.
    """
    threading.Thread(target=_watch, args=(fd,), name="left-alone", daemon=True).start()


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP | select.POLLHUP)
    poll.poll()
    time.sleep(_GRACE_S)
    if _MARK in os.environ:
        end_offspring(dict(os.environ))
    os._exit(1)


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty where it is gone, or not ours to see. A zombie's is empty, too."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
