"""A server in the background: up starts the same supervisor that serve runs, down stops either."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from conch.contract import HOST_VARIABLE
from conch.errors import ServerError
from conch.repository.check import pinned_manifest
from conch.server.leftovers import kill_group, remove_leftovers
from conch.server.logs import Follower
from conch.server.report import addresses, say
from conch.server.settings import Settings
from conch.server.state import READY, RunDir, State, holder_pid, is_held

_POLL_S = 0.1
_KILL_GRACE_S = 15.0


def up(settings: Settings) -> int:
    """Start a server in the background; return when it is ready.

    Raises:
        ServerError: one is up with other settings or another release, or the new one failed; its own words were
            printed.
        RepositoryError: one is up, and its repository pins no release any more.
    """
    run_dir = RunDir(settings.run_dir)
    run_dir.path.mkdir(parents=True, exist_ok=True)
    with _alone(run_dir):
        return _already_up(settings) if is_held(run_dir) else _start(settings)


@contextmanager
def _alone(run_dir: RunDir) -> Iterator[None]:
    """One ``up`` at a time: a second one would empty the log that the first one shows. It waits."""
    with run_dir.up_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command is starting the server; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(settings: Settings) -> int:
    run_dir = RunDir(settings.run_dir)
    with run_dir.supervisor_log.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "conch.server", "serve", *serve_flags(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **serve_environment(settings)},
            start_new_session=True,
        )
    try:
        code = _wait_until_ready(run_dir, child)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    if code is None:
        say("stop: make down")
        return 0
    return code if code > 0 else 1


def serve_flags(settings: Settings) -> list[str]:
    """Flags of ``serve`` that give these settings again."""
    return [
        f"--repository={settings.repository}",
        f"--run-dir={settings.run_dir}",
        f"--drain-timeout-s={settings.drain_timeout_s}",
        f"--start-timeout-s={settings.start_timeout_s}",
        f"--probe-interval-s={settings.probe_interval_s}",
        f"--hang-timeout-s={settings.hang_timeout_s}",
    ]


def serve_environment(settings: Settings) -> dict[str, str]:
    """Environment variables that give these settings again."""
    return {HOST_VARIABLE: settings.host, **{name: str(port) for name, port in settings.ports.items()}}


def _already_up(settings: Settings) -> int:
    run_dir = RunDir(settings.run_dir)
    state = _wait_for_state(run_dir)
    if _what(settings) != _what(state.settings):
        raise ServerError(
            "a server is up already with another repository, host or ports:\n" + "\n".join(addresses(state.settings)),
            mend="Stop it first (make down), or choose another folder with --run-dir",
        )
    _require_pinned(state)
    if state.phase != READY and _wait_until_ready(run_dir, None) is not None:
        raise ServerError("the server that was starting ended", mend=f"Its log: {run_dir.triton_log}")
    say(f"already up (pid {state.supervisor.pid})")
    for line in addresses(state.settings):
        say(line)
    return 0


def _what(settings: Settings) -> tuple[object, ...]:
    return settings.repository, settings.host, settings.ports


def _require_pinned(state: State) -> None:
    """Refuse to take a server for the one that was asked for when the repository was built anew since it started."""
    pinned = pinned_manifest(state.settings.repository)
    if (pinned.name, pinned.version) != (state.release_name, state.release_version):
        raise ServerError(
            f"a server is up already and serves {state.release_name}, release {state.release_version}; "
            f"{state.settings.repository} now pins {pinned.name}, release {pinned.version}",
            mend="To serve that: make down, then the same command again; to keep the old one, build its SPEC again",
        )


def _wait_for_state(run_dir: RunDir) -> State:
    """The state of a supervisor that holds the pid file; it checks the machine before it writes one."""
    while is_held(run_dir):
        state = State.read(run_dir)
        if state is not None and state.supervisor.pid == holder_pid(run_dir):
            return state
        time.sleep(_POLL_S)
    raise ServerError("the server that was starting ended", mend=f"Its log: {run_dir.triton_log}")


def _wait_until_ready(run_dir: RunDir, child: subprocess.Popen[bytes] | None) -> int | None:
    """Show what a supervisor says until it is ready (None) or has ended (its exit code, 1 where that is not known)."""
    follower = Follower(run_dir.supervisor_log)
    while True:
        ended = child.poll() if child is not None else _held_or_failed(run_dir)
        state = State.read(run_dir)
        mine = state is not None and (child is None or state.supervisor.pid == child.pid)
        ready = mine and state is not None and state.phase == READY
        if child is not None:
            if ready:
                time.sleep(_POLL_S)  # the state is written a moment before the addresses are printed
            sys.stdout.write(follower.read())
            sys.stdout.flush()
        if ended is not None or ready:
            return ended
        time.sleep(_POLL_S)


def _held_or_failed(run_dir: RunDir) -> int | None:
    return None if is_held(run_dir) else 1


def down(settings: Settings) -> int:
    """Stop the server of a run folder: drain, then kill. Says so where there is none.

    Raises:
        ServerError: it cannot be stopped.
    """
    run_dir = RunDir(settings.run_dir)
    pid = holder_pid(run_dir) if is_held(run_dir) else None
    if pid is None:
        say("not up")
        return 0
    state = State.read(run_dir)
    timeout_s = (state.settings if state else settings).drain_timeout_s
    say(f"stopping (pid {pid}); requests in flight may take {timeout_s} s")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise ServerError(f"process {pid} belongs to another user", mend="Stop it as that user") from None
    deadline = time.monotonic() + timeout_s + _KILL_GRACE_S
    while is_held(run_dir):
        if time.monotonic() > deadline:
            say("it did not stop in time and is killed")
            _kill(run_dir, pid)
        time.sleep(_POLL_S)
    say("stopped")
    return 0


def _kill(run_dir: RunDir, pid: int) -> None:
    state = State.read(run_dir)
    os.kill(pid, signal.SIGKILL)
    if state is not None:
        if state.triton is not None and state.triton.alive:
            kill_group(state.triton.pid)
        remove_leftovers(set(state.shm_regions))
