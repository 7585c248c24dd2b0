"""Watches over a server that answers, until it has to be stopped or started anew.

Triton alone is not enough to watch: when a stage's process is killed, requests in flight hang for ever while every
ready endpoint says 200. The watch sees the missing process, and one that does not answer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from enum import Enum

from conch.server import probe
from conch.server.engine_watch import EngineWatch
from conch.server.heartbeat import Heartbeat
from conch.server.leftovers import Stub
from conch.server.settings import Settings
from conch.server.signals import Signals
from conch.server.state import READY, REPAIRING
from conch.server.triton_process import TritonProcess

TICK_S = 0.5
SEARCH_EVERY_S = 5.0  # for stages that were loaded anew; reading all of /proc is the dearest part of a look
_LOST_TICKS = 3  # looks in a row; one look may fall into the middle of a reload


class End(Enum):
    """Why a watch is over."""

    STOP_ASKED = "a signal came"
    STOPPED = "tritonserver ended with exit code 0: somebody else told it to"
    BROKEN = "something died or hangs"


class Watch:
    """See the module.

    Args:
        settings: where the server listens.
        triton: the server.
        admin_key: for the management API.
        seen: stages that were there when it became ready.
        engine: follows the engine's process.
        signals: a stop signal ends the watch.
        note: takes the phase, and writes it down.

    Attributes:
        why: what is broken, for the log; once run has returned.
    """

    def __init__(
        self,
        settings: Settings,
        triton: TritonProcess,
        admin_key: str,
        seen: list[Stub],
        engine: EngineWatch,
        signals: Signals,
        note: Callable[[str], None],
    ) -> None:
        self._settings, self._triton, self._admin_key = settings, triton, admin_key
        self._known = {stub.process.pid: stub for stub in seen}
        self._engine, self._signals, self._note = engine, signals, note
        self._lost_ticks = 0
        self._search_at = 0.0
        self._silent_since = 0.0
        self.why = ""

    def run(self, heartbeat: Heartbeat) -> End:
        """Watch; ``heartbeat`` says what is silent."""
        while True:
            self._signals.wait(TICK_S)
            if self._signals.stops:
                return End.STOP_ASKED
            if (code := self._triton.exit_code()) is not None:
                self.why = f"tritonserver ended by itself ({how_ended(code)})"
                return End.BROKEN if code else End.STOPPED
            self.why = self._look_for_stages() or self._engine.look() or self._hangs(heartbeat.silent())
            if self.why:
                return End.BROKEN
            self._note(REPAIRING if self._engine.away else READY)

    def _hangs(self, silent: str) -> str:
        if not silent:
            self._silent_since = 0.0
            return ""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        # A tritonserver that listens no more was told to stop by somebody else, and may take its time for that.
        if not self._triton.listens() and now - self._silent_since < self._settings.drain_timeout_s:
            return ""
        return f"{silent} has not answered for {self._settings.hang_timeout_s} s"

    def _look_for_stages(self) -> str:
        """Which stage's process is gone; empty if all are there."""
        now = time.monotonic()
        if now < self._search_at and all(stub.process.alive for stub in self._known.values()):
            self._lost_ticks = 0
            return ""
        self._search_at = now + SEARCH_EVERY_S
        living = {stub.process.pid: stub for stub in self._triton.stubs()}
        self._engine.note(list(living.values()))
        lost = self._lost(living)
        self._known = {**living, **{stub.process.pid: stub for stub in lost}}
        self._lost_ticks = self._lost_ticks + 1 if lost else 0
        if self._lost_ticks < _LOST_TICKS:
            return ""
        return f"the process of {lost[0].model} (pid {lost[0].process.pid}) died"

    def _lost(self, living: dict[int, Stub]) -> list[Stub]:
        """Stages that are gone although Triton holds them for ready; an unloaded one is gone by right."""
        running = {(stub.model, stub.version) for stub in living.values()}
        gone = [s for pid, s in self._known.items() if pid not in living and (s.model, s.version) not in running]
        if not gone:
            return []
        if not self._triton.listens():
            return []  # somebody else told tritonserver to stop: it ends its stages itself
        states = probe.model_states(self._settings.connect_host, self._settings.http_port, self._admin_key)
        return gone if states is None else [s for s in gone if states.get((s.model, s.version)) == probe.READY]


def how_ended(code: int) -> str:
    """An exit code as of subprocess, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
