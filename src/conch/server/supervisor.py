"""Starts tritonserver, waits for its first real answer, watches over it, and takes it down without leaving anything.

What breaks is started again, a few times.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from conch.contract import model_names
from conch.errors import ServerError
from conch.server import probe, triton_log
from conch.server.drain import Drain
from conch.server.engine_watch import EngineWatch
from conch.server.heartbeat import PARTS, TWIN_PARTS, Heartbeat
from conch.server.leftovers import Stub
from conch.server.locate import more_backends
from conch.server.preflight import Ready
from conch.server.settings import Settings
from conch.server.signals import Signals
from conch.server.state import READY, REPAIRING, STARTING, STOPPING, RunDir, State, this_process, write_admin_key
from conch.server.triton_process import TritonProcess
from conch.server.watch import End, Watch, how_ended

Say = Callable[[str], None]

EXIT_STOPPED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
MAX_REPAIRS = 3
REPAIR_WINDOW_S = 600.0
_START_TICK_S = 0.2
_PROGRESS_EVERY_S = 5.0


class Supervisor:
    """One server, from its start to its end.

    Args:
        settings: where to listen and what to serve.
        find: checks the machine and the repository again before every start.
        say: takes lines for the person in front of it.
        announce: called once, when the server first answers, with the seconds that took.
    """

    def __init__(
        self, settings: Settings, find: Callable[[], Ready], say: Say, announce: Callable[[State, float], None]
    ) -> None:
        self._settings = settings
        self._find = find
        self._say = say
        self._announce = announce
        self._run_dir = RunDir(settings.run_dir)
        self._repairs: list[float] = []

    def run(self) -> int:
        """Serve until asked to stop.

        Returns:
            EXIT_STOPPED, or EXIT_INTERRUPTED when stopped before it was ready.

        Raises:
            ServerError: it could not be started, or ended by itself; nothing is left running.
        """
        ready = self._find()
        self._rotate_log()
        with Signals() as self._signals:
            while True:
                self._start(ready)
                try:
                    if not self._until_ready():
                        self._say("stopped before it was ready")
                        return EXIT_INTERRUPTED
                    end, why = self._watch()
                    if end is End.STOP_ASKED:
                        self._drain()
                        return EXIT_STOPPED
                    if end is End.STOPPED:
                        raise self._failure(why)
                    self._note_repair(why)
                finally:
                    self._triton.remove()
                ready = self._find()

    def _drain(self) -> None:
        self._update(STOPPING)
        Drain(self._settings, self._triton, self._admin_key, self._signals, self._say, self._state.twins).run()

    def _rotate_log(self) -> None:
        log = self._run_dir.triton_log
        if log.exists():
            log.replace(self._run_dir.former_triton_log)

    def _start(self, ready: Ready) -> None:
        self._admin_key = write_admin_key(self._run_dir)
        backends = ready.installation.install_backend(self._run_dir.backends, more_backends(os.environ))
        self._began = time.monotonic()
        self._triton = TritonProcess(
            self._settings,
            ready.installation,
            backends,
            self._admin_key,
            self._run_dir.triton_log,
            ready.release.twins,
            ready.release.backend_slots,
        )
        self._state = State(
            phase=REPAIRING if self._repairs else STARTING,
            supervisor=this_process(),
            triton=self._triton.process,
            settings=self._settings,
            release_name=ready.release.name,
            release_version=ready.release.version,
            started_at_s=time.time(),
            repairs=len(self._repairs),
            twins=ready.release.twins,
        )
        self._state.write(self._run_dir)
        self._say(f"starting tritonserver for {ready.release.name}, release {ready.release.version}")

    def _update(self, phase: str) -> None:
        """Write the state down if it changed."""
        new = replace(self._state, phase=phase, shm_regions=tuple(sorted(self._triton.regions)))
        if new != self._state:
            self._state = new
            new.write(self._run_dir)

    def _until_ready(self) -> bool:
        """Wait for the first answer; False if a stop was asked."""
        progress = _Progress(self._say, self._began)
        asked: _FirstToken | None = None
        # All of them are needed for the first token; one that dies just after it is missed from the first look on.
        self._seen: dict[int, Stub] = {}
        while True:
            self._signals.wait(_START_TICK_S)
            if self._signals.stops:
                return False
            if (code := self._triton.exit_code()) is not None:
                raise self._failure("tritonserver gave up" if code >= 0 else f"tritonserver was {how_ended(code)}")
            elapsed_s = time.monotonic() - self._began
            if elapsed_s > self._settings.start_timeout_s:
                raise self._failure(f"tritonserver was not ready within {self._settings.start_timeout_s} s")
            self._seen.update({stub.process.pid: stub for stub in self._triton.stubs()})
            self._update(self._state.phase)
            if asked is None:
                progress.show(self._waits_for())
                if self._triton.listens() and self._model_ready():
                    asked = _FirstToken(self._settings, self._settings.start_timeout_s - elapsed_s)
            elif asked.answer is None:
                progress.show("waiting for the first token")
            elif not asked.answer.ok:
                raise self._failure(f"the models are loaded but do not answer: {asked.answer.body.strip()}")
            else:
                self._update(READY)
                self._announce(self._state, time.monotonic() - self._began)
                return True

    def _model_ready(self) -> bool:
        host, port = self._settings.connect_host, self._settings.http_port
        return all(probe.model_ready(host, port, name) for name in model_names(self._state.twins))

    def _waits_for(self) -> str:
        names = triton_log.loading(self._triton.log_text())
        return f"loading {', '.join(names)}" if names else "waiting for tritonserver"

    def _watch(self) -> tuple[End, str]:
        state, seen = self._state, list(self._seen.values())
        engine = EngineWatch(self._settings, self._admin_key, state.release_version, state.twins, self._say)
        engine.note(seen)
        watch = Watch(self._settings, self._triton, self._admin_key, seen, engine, self._signals, self._update)
        heartbeat = Heartbeat(self._settings, (*PARTS, *(TWIN_PARTS if state.twins else ())))
        try:
            return watch.run(heartbeat), watch.why
        finally:
            heartbeat.close()

    def _note_repair(self, why: str) -> None:
        """Count a repair.

        Raises:
            ServerError: there were too many of late.
        """
        self._update(REPAIRING)
        now = time.monotonic()
        self._repairs = [t for t in self._repairs if now - t < REPAIR_WINDOW_S] + [now]
        count = len(self._repairs)
        if count > MAX_REPAIRS:
            minutes = int(REPAIR_WINDOW_S // 60)
            raise self._failure(f"{why}: failure {count} within {minutes} minutes, so it is not started again")
        self._say(f"{why}: starting again, repair {count} of at most {MAX_REPAIRS}; requests in flight are lost")

    def _failure(self, what: str) -> ServerError:
        reason = triton_log.failure_reason(self._triton.log_text())
        return ServerError(f"{what}: {reason}" if reason else what, mend=f"The whole log: {self._run_dir.triton_log}")


class _Progress:
    """Says what is waited for: when that changes, and every few seconds."""

    def __init__(self, say: Say, began: float) -> None:
        self._say = say
        self._began = began
        self._last = ("", 0.0)

    def show(self, what: str) -> None:
        now = time.monotonic()
        if what != self._last[0] or now - self._last[1] >= _PROGRESS_EVERY_S:
            self._say(f"{now - self._began:5.1f} s  {what}")
            self._last = (what, now)


class _FirstToken:
    """The first inference, asked in a thread so that signals are heard meanwhile.

    Attributes:
        answer: None while it is not there.
    """

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self.answer: probe.Answer | None = None
        self._settings = settings
        self._timeout_s = timeout_s
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        self.answer = probe.first_token(self._settings.connect_host, self._settings.http_port, self._timeout_s)
