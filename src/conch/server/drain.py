"""Takes a tritonserver down without losing a request that is in flight.

SIGTERM alone does not do that: Triton 2.51 then stops to send on gRPC streams at once, and waits for idle HTTP
connections until its timeout is over. So the models are unloaded first, the ensembles before their stages. An
unloaded model takes no new request, finishes those it has, and says when it is done.

It never says so after a client has cancelled a request to an ensemble: Triton 2.51 keeps such a request for ever, also
when all its steps have ended. So ensembles count as done, too, when the engine has had nothing to do for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from conch.contract import STAGES, UNARY, UNSIGNED, ensembles
from conch.server import probe
from conch.server.settings import Settings
from conch.server.signals import Signals
from conch.server.triton_process import TritonProcess

_TICK_S = 0.2
_EXIT_GRACE_S = 5.0
_IDLE_S = 2.0  # the engine has nothing to do: its last words are on the wire by then


class Drain:
    """One stop of one tritonserver.

    Args:
        settings: where it listens, and how long it may take.
        triton: what to stop.
        admin_key: for the management API.
        signals: a second stop signal ends the patience.
        say: takes lines for the person in front of it.
        twins: of the release.
    """

    def __init__(
        self,
        settings: Settings,
        triton: TritonProcess,
        admin_key: str,
        signals: Signals,
        say: Callable[[str], None],
        twins: bool,
    ) -> None:
        self._host = settings.connect_host
        self._port = settings.http_port
        self._metrics_port = settings.metrics_port
        self._timeout_s = settings.drain_timeout_s
        self._triton = triton
        self._admin_key = admin_key
        self._signals = signals
        self._say = say
        self._twins = twins
        self._keeps_ended = False  # there are requests that have ended and that tritonserver would wait for

    def run(self) -> None:
        """Let requests in flight finish, then stop tritonserver; the caller kills what is left."""
        self._say(f"stopping: requests in flight may take {self._timeout_s} s (a second signal ends them)")
        deadline = time.monotonic() + self._timeout_s
        # unary asks the stages by name, as a client would: they must outlast it.
        public = [e.name for e in ensembles(self._twins)] + [UNARY.name] * self._twins
        groups = (public, [s.name for s in STAGES] + [UNSIGNED.name] * self._twins)
        idle = all(self._unload(names, deadline) for names in groups)
        if self._impatient():
            self._say("killed; requests in flight are lost")
            return
        if not idle and time.monotonic() >= deadline:
            self._say(f"killed after {self._timeout_s} s; requests still in flight are lost")
            return
        # Idle: only connections without a request can hold it up. Else it could not be asked; its own patience counts.
        self._triton.drain()
        deadline = (time.monotonic() if idle else deadline) + (0.5 if self._keeps_ended else _EXIT_GRACE_S)
        while self._triton.exit_code() is None and time.monotonic() < deadline and not self._impatient():
            self._signals.wait(_TICK_S)
        self._say("stopped")

    def _unload(self, names: list[str], deadline: float) -> bool:
        """Unload models and wait until their requests are done; False where that cannot be told or takes too long."""
        for name in names:
            # Asked of one that hangs, each takes its whole time limit.
            if not self._may_wait(deadline):
                return False
            probe.unload(self._host, self._port, self._admin_key, name, deadline - time.monotonic())
        idle_since = time.monotonic()
        while self._may_wait(deadline):
            states = probe.model_states(self._host, self._port, self._admin_key)
            if states is None:
                return False
            if not any(name in names and state != probe.UNAVAILABLE for (name, _), state in states.items()):
                return True
            if probe.rows_in_engine(self._host, self._metrics_port) != 0:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= _IDLE_S:
                self._keeps_ended = True
                return True
            self._signals.wait(_TICK_S)
        return False

    def _may_wait(self, deadline: float) -> bool:
        return not self._impatient() and time.monotonic() < deadline and self._triton.exit_code() is None

    def _impatient(self) -> bool:
        return len(self._signals.stops) > 1
