"""Starts tritonserver, waits for its first real answer, watches over it, and takes it down without leaving anything.

Triton alone is not enough to watch: when a stage's process is killed, requests in flight hang for ever while every
ready endpoint says 200. The supervisor sees the missing process and starts the server again.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from conch.contract import model_names
from conch.errors import ServerError
from conch.server import probe, procfs, triton_log
from conch.server.drain import Drain
from conch.server.leftovers import Stub
from conch.server.preflight import Ready
from conch.server.settings import Settings
from conch.server.signals import Signals
from conch.server.state import READY, REPAIRING, STARTING, STOPPING, RunDir, State, this_process, write_admin_key
from conch.server.triton_process import TritonProcess

Say = Callable[[str], None]

EXIT_STOPPED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
MAX_REPAIRS = 3
REPAIR_WINDOW_S = 600.0
_TICK_S = 1.0
_START_TICK_S = 0.2
_PROGRESS_EVERY_S = 5.0
_LOST_TICKS = 2  # looks in a row; one look may fall into the middle of a reload


class _End(Enum):
    READY = "ready"
    STOP_ASKED = "stop asked"
    DIED = "died"
    STAGE_LOST = "stage lost"


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
                    end = self._until_ready()
                    if end is _End.READY:
                        end = self._watch()
                        if end is _End.STOP_ASKED:
                            self._drain()
                            return EXIT_STOPPED
                    if end is _End.STOP_ASKED:
                        self._say("stopped before it was ready")
                        return EXIT_INTERRUPTED
                    if end is _End.DIED:
                        raise self._death()
                finally:
                    self._triton.remove()
                self._note_repair()
                ready = self._find()

    def _drain(self) -> None:
        self._update(STOPPING)
        Drain(self._settings, self._triton, self._admin_key, self._signals, self._say, self._state.twins).run()

    def _rotate_log(self) -> None:
        log = self._run_dir.triton_log
        if log.exists():
            log.replace(log.with_suffix(".log.1"))

    def _start(self, ready: Ready) -> None:
        self._admin_key = write_admin_key(self._run_dir)
        backends = ready.installation.install_backend(self._run_dir.backends)
        self._began = time.monotonic()
        self._triton = TritonProcess(
            self._settings,
            ready.installation,
            backends,
            self._admin_key,
            self._run_dir.triton_log,
            ready.release.twins,
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

    def _until_ready(self) -> _End:
        progress = _Progress(self._say, self._began)
        asked: _FirstToken | None = None
        # All of them are needed for the first token; one that dies just after it is missed from the first look on.
        self._seen: dict[int, Stub] = {}
        while True:
            self._signals.wait(_START_TICK_S)
            if self._signals.stops:
                return _End.STOP_ASKED
            if self._triton.exit_code() is not None:
                raise self._failure("tritonserver gave up")
            elapsed_s = time.monotonic() - self._began
            if elapsed_s > self._settings.start_timeout_s:
                raise self._failure(f"tritonserver was not ready within {self._settings.start_timeout_s} s")
            self._seen.update({stub.process.pid: stub for stub in self._triton.stubs()})
            self._update(self._state.phase)
            if asked is None:
                progress.show(self._waits_for())
                if self._listens() and self._model_ready():
                    asked = _FirstToken(self._settings, self._settings.start_timeout_s - elapsed_s)
            elif asked.answer is None:
                progress.show("waiting for the first token")
            elif not asked.answer.ok:
                raise self._failure(f"the models are loaded but do not answer: {asked.answer.body.strip()}")
            else:
                self._update(READY)
                self._announce(self._state, time.monotonic() - self._began)
                return _End.READY

    def _listens(self) -> bool:
        """Whether each port is our tritonserver's: whoever took one since it was checked would answer, too."""
        return all(procfs.listens(self._triton.process.pid, port) for port in self._settings.ports.values())

    def _model_ready(self) -> bool:
        host, port = self._settings.connect_host, self._settings.http_port
        return all(probe.model_ready(host, port, name) for name in model_names(self._state.twins))

    def _waits_for(self) -> str:
        names = triton_log.loading(self._triton.log_text())
        return f"loading {', '.join(names)}" if names else "waiting for tritonserver"

    def _watch(self) -> _End:
        known = self._seen
        lost_ticks = 0
        while True:
            self._signals.wait(_TICK_S)
            if self._signals.stops:
                return _End.STOP_ASKED
            if self._triton.exit_code() is not None:
                return _End.DIED
            living = {stub.process.pid: stub for stub in self._triton.stubs()}
            self._update(READY)
            lost = self._lost(known, living)
            known = {**living, **{stub.process.pid: stub for stub in lost}}
            lost_ticks = lost_ticks + 1 if lost else 0
            if lost_ticks >= _LOST_TICKS:
                who = f"{lost[0].model} (pid {lost[0].process.pid})"
                self._say(f"the process of {who} died: starting again; requests in flight are lost")
                return _End.STAGE_LOST

    def _lost(self, known: dict[int, Stub], living: dict[int, Stub]) -> list[Stub]:
        """Stages that are gone although Triton holds them for ready; an unloaded one is gone by right."""
        running = {(stub.model, stub.version) for stub in living.values()}
        gone = [s for pid, s in known.items() if pid not in living and (s.model, s.version) not in running]
        if not gone:
            return []
        if not self._listens():
            return []  # somebody else told tritonserver to stop: it ends its stages itself
        states = probe.model_states(self._settings.connect_host, self._settings.http_port, self._admin_key)
        return gone if states is None else [s for s in gone if states.get((s.model, s.version)) == probe.READY]

    def _note_repair(self) -> None:
        """Count a repair.

        Raises:
            ServerError: there were too many of late.
        """
        now = time.monotonic()
        self._repairs = [t for t in self._repairs if now - t < REPAIR_WINDOW_S] + [now]
        if len(self._repairs) > MAX_REPAIRS:
            minutes = int(REPAIR_WINDOW_S // 60)
            raise self._failure(f"stages died {len(self._repairs)} times within {minutes} minutes")

    def _death(self) -> ServerError:
        code = self._triton.exit_code() or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._failure(f"tritonserver ended by itself ({how})")

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
