"""What /proc says about processes, listening ports and memory. Nothing here needs a package."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTEN = "0A"


@dataclass(frozen=True)
class Process:
    """A process; the start time tells it from a later one with the same pid.

    Attributes:
        pid: its id.
        start_ticks: when it started, in clock ticks since boot.
    """

    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat.state != "Z" and stat.start_ticks == self.start_ticks


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    group: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in brackets may hold spaces and brackets
    return _Stat(fields[0], int(fields[1]), int(fields[2]), int(fields[19]))


def process(pid: int) -> Process | None:
    """The process with this pid, None where there is none."""
    stat = _stat(pid)
    return None if stat is None else Process(pid, stat.start_ticks)


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty where it is gone or not ours to read."""
    try:
        data = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in data.rstrip(b"\0").split(b"\0")] if data else []


def children(pid: int) -> list[Process]:
    """Living children of a process."""
    return _those(lambda stat: stat.parent == pid)


def group(leader_pid: int) -> list[Process]:
    """Living members of a process group."""
    return _those(lambda stat: stat.group == leader_pid)


def _those(fits: Callable[[_Stat], bool]) -> list[Process]:
    stats = ((pid, _stat(pid)) for pid in pids())
    return [Process(pid, s.start_ticks) for pid, s in stats if s is not None and s.state != "Z" and fits(s)]


def pids() -> list[int]:
    """Every process there is."""
    return [int(name) for name in os.listdir(PROC) if name.isdecimal()]  # noqa: PTH208 - hundreds of Paths a second


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    SO_REUSEADDR lets a connection of an earlier server that is still winding up pass, but no listening one.

    Raises:
        OSError: the address is not of this machine, or the port needs rights that we lack.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.strerror and error.errno == 98:  # EADDRINUSE
                return False
            raise
    return True


def listener(port: int) -> Process | None:
    """The process that listens on a TCP port; None where nobody does or its owner cannot be told."""
    sockets = _listening(port)
    for pid in pids() if sockets else []:
        if sockets & _sockets(pid):
            return process(pid)
    return None


def listens(pid: int, port: int) -> bool:
    """Whether this process is the one that listens on a TCP port."""
    return bool(_listening(port) & _sockets(pid))


def _listening(port: int) -> set[str]:
    """Names, as in /proc/PID/fd, of the sockets that listen on a TCP port."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _sockets(pid: int) -> set[str]:
    folder = f"{PROC}/{pid}/fd"
    found = set()
    try:
        for descriptor in os.listdir(folder):  # noqa: PTH208 - as in pids
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(f"{folder}/{descriptor}"))  # noqa: PTH115
    except OSError:
        return set()
    return found
