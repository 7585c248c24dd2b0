"""Runs the long work of others (pip, the exporter, trtllm-build) in a child process that ends with the build."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from conch.bound import bound
from conch.build.progress import Progress

_POLL_S = 0.2
_LOOK_S = 0.02
_GRACE_S = 5.0


def run_child(
    command: list[str],
    *,
    progress: Progress,
    title: str,
    environment: Mapping[str, str],
    so_far: Callable[[], str] = lambda: "",
    log: Path | None = None,
) -> tuple[int, str]:
    """Run a command to its end.

    Args:
        command: program and arguments.
        progress: is told ``title``, what ``so_far`` returns, and the seconds passed.
        environment: all of the child's environment variables.
        log: file that its output goes to, so that it can be read while it runs; None: nowhere.

    Returns:
        Exit status (negative: the signal that ended it), and all that it printed.

    Raises:
        FileNotFoundError: there is no such program.
    """
    program = shutil.which(command[0], path=environment.get("PATH", os.defpath))
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    started_s = time.monotonic()
    with tempfile.TemporaryFile() if log is None else log.open("w+b") as output:
        child = subprocess.Popen(
            bound([program, *command[1:]]), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=dict(environment),
        )  # fmt: skip
        try:
            progress.begin(title)
            while not _has_ended(child, _POLL_S):
                progress.update(f"{title}{so_far()}, {time.monotonic() - started_s:.0f} s")
        finally:
            _end(child)
            progress.done()
        output.seek(0)
        return child.returncode, output.read().decode("utf-8", "replace")


def _has_ended(child: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Wait for a child, but not for long; sets its returncode.

    Popen.wait and poll have a lock of their own. The exception of a signal handler that comes just after they took it
    leaves it taken, and whoever waits next waits for ever.
    """
    until_s = time.monotonic() + patience_s
    while child.returncode is None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
        except ChildProcessError:  # it was waited for, and a signal came before its status was written down
            pid, status = child.pid, signal.SIGKILL
        if pid != 0:
            child.returncode = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= until_s:
            return False
        else:
            time.sleep(_LOOK_S)
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    for number, patience_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        if _has_ended(child, 0):
            return
        os.kill(child.pid, number)
        _has_ended(child, patience_s)


def last_lines(output: str, count: int = 3) -> str:
    """The last lines of a program's output that say anything, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " | ".join(lines[-count:])


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder that somebody is writing to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # gone in between
            continue
    return total
