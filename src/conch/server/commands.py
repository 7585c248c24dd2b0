"""What ``python -m conch.server`` does in the foreground: serve, status, logs."""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime, timedelta, timezone

from conch.contract import model_names
from conch.errors import ServerError
from conch.server import probe
from conch.server.leftovers import kill_group, remove_leftovers
from conch.server.logs import Copier, Follower, Rotator
from conch.server.report import addresses, announce, complain, say
from conch.server.settings import Settings
from conch.server.state import READY, PidFile, RunDir, State, is_held

EXIT_UP, EXIT_DOWN, EXIT_NOT_READY = 0, 3, 4  # of status; as LSB init scripts have them
_POLL_S = 0.1
_KILL_GRACE_S = 15.0


def serve(settings: Settings, *, log_to_stdout: bool = False) -> int:
    """Serve in the foreground until asked to stop.

    Args:
        settings: where and what.
        log_to_stdout: print Triton's log as well, for a container, whose stdout is what is kept.

    Raises:
        ConchError: it could not be started, or ended by itself.
    """
    from conch.server.preflight import Ready, preflight
    from conch.server.supervisor import Supervisor

    def find() -> Ready:
        ready, problems = preflight(settings)
        for problem in problems[:-1]:
            complain(problem)
        if problems:
            raise problems[-1]
        assert ready is not None
        return ready

    run_dir = RunDir(settings.run_dir)
    pid_file = PidFile(run_dir)
    try:
        before = State.read(run_dir)
        if before is not None:
            _await_end(before)
            remove_leftovers(set(before.shm_regions))
        run_dir.state_file.unlink(missing_ok=True)
        log = run_dir.triton_log
        with Copier(log, say) if log_to_stdout else Rotator(log, run_dir.former_triton_log):
            return Supervisor(settings, find, say, announce).run()
    finally:
        run_dir.state_file.unlink(missing_ok=True)
        run_dir.admin_key_file.unlink(missing_ok=True)
        pid_file.close()


def _await_end(state: State) -> None:
    """Let the tritonserver of a supervisor that was killed end: it got a SIGTERM when that happened."""
    if state.triton is None or not state.triton.alive:
        return
    say(f"a tritonserver without its supervisor (pid {state.triton.pid}) is still ending; waiting for it")
    deadline = time.monotonic() + state.settings.drain_timeout_s + _KILL_GRACE_S
    while state.triton.alive:
        if time.monotonic() > deadline:
            kill_group(state.triton.pid)
        time.sleep(_POLL_S)


def status(settings: Settings, *, as_json: bool) -> int:
    """Print whether the server is up, where, since when, and each model's readiness.

    Returns:
        EXIT_UP, EXIT_DOWN, or EXIT_NOT_READY when it is there but does not serve.
    """
    run_dir = RunDir(settings.run_dir)
    state = State.read(run_dir)
    if not is_held(run_dir):
        say(json.dumps({"phase": "down"}) if as_json else "down")
        return EXIT_DOWN
    if state is None:
        say(json.dumps({"phase": "starting"}) if as_json else "starting")
        return EXIT_NOT_READY
    host, port = state.settings.connect_host, state.settings.http_port
    models = {name: state.phase == READY and probe.model_ready(host, port, name) for name in model_names(state.twins)}
    uptime_s = max(0, int(time.time() - state.started_at_s))
    if as_json:
        say(json.dumps(_status_data(state, models, uptime_s), indent=2))
    else:
        say(f"{state.phase}: {state.release_name}, release {state.release_version} at the start")
        started = datetime.fromtimestamp(state.started_at_s, timezone.utc).isoformat(timespec="seconds")
        say(f"  pid      {state.supervisor.pid} (tritonserver {state.triton.pid if state.triton else '-'})")
        say(f"  up for   {timedelta(seconds=uptime_s)} (since {started}), repairs: {state.repairs}")
        for line in addresses(state.settings):
            say(line)
        for name, ready in models.items():
            say(f"  {'ready    ' if ready else 'NOT READY'} {name}")
    return EXIT_UP if state.phase == READY and all(models.values()) else EXIT_NOT_READY


def _status_data(state: State, models: dict[str, bool], uptime_s: int) -> dict[str, object]:
    return {
        "phase": state.phase,
        "pid": state.supervisor.pid,
        "tritonserver_pid": state.triton.pid if state.triton else None,
        "release": {"name": state.release_name, "version": state.release_version},
        "uptime_s": uptime_s,
        "repairs": state.repairs,
        "host": state.settings.host,
        "http_port": state.settings.http_port,
        "grpc_port": state.settings.grpc_port,
        "metrics_port": state.settings.metrics_port,
        "repository": str(state.settings.repository),
        "models": models,
    }


def logs(settings: Settings, *, lines: int, follow: bool) -> int:
    """Print the end of Triton's log, and with ``follow`` what comes, until interrupted.

    Raises:
        ServerError: there is none.
    """
    path = RunDir(settings.run_dir).triton_log
    if not path.is_file():
        raise ServerError(f"there is no log at {path}", mend="Start a server first: make serve or make up")
    follower = Follower(path, lines=lines)
    while True:
        text = follower.read()
        sys.stdout.write(text)
        sys.stdout.flush()
        if not follow:
            return 0
        time.sleep(_POLL_S)
