"""Takes the models out of service while the engine's own process is away.

The engine stage starts a new process by itself, and refuses requests meanwhile. Nothing tells Triton of that, so its
ready endpoints would go on to say 200. The supervisor sees that the process is gone, unloads the ensembles, and loads
them again when the engine has answered a real request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from conch.contract import ASYNC_WORKER_MODULE, ENGINE, ENGINE_CANNOT_START, ENSEMBLE, WORKER_MODULE, ensembles
from conch.repository.pbtxt import CONFIG_FILE, pinned_version
from conch.server import probe, procfs
from conch.server.leftovers import Stub
from conch.server.procfs import Process
from conch.server.settings import Settings

_WORKER_MODULES = {WORKER_MODULE, ASYNC_WORKER_MODULE}
GIVE_UP_S = 30.0  # how long a process that cannot be started is waited for


class EngineWatch:
    """See the module. An engine without a process of its own is left alone.

    Args:
        settings: where the server listens.
        admin_key: for the management API.
        release_version: what is served.
        twins: of the release.
        say: takes lines for the person in front of it.
    """

    def __init__(
        self, settings: Settings, admin_key: str, release_version: int, twins: bool, say: Callable[[str], None]
    ) -> None:
        self._settings, self._admin_key, self._say = settings, admin_key, say
        self._release_version = release_version
        self._ensembles = [e.name for e in ensembles(twins)]
        self._stages: list[int] = []  # process ids of the engine's stage; several while Triton loads it anew
        self._worker: Process | None = None  # whose death is waited for; while away: the one that was asked
        self._away_since = 0.0
        self._failing_since = 0.0
        self._question: _Question | None = None

    @property
    def away(self) -> bool:
        """Whether the ensembles are out of service."""
        return self._away_since > 0

    def note(self, stubs: list[Stub]) -> None:
        """Look for the engine's process below these."""
        self._stages = [stub.process.pid for stub in stubs if stub.model == ENGINE.name]
        if self.away or (self._worker is not None and not self._worker.alive):
            return  # the stage starts the next one at once: taking that for ours would hide the death of this one
        self._worker = self._find_worker() or self._worker

    def _find_worker(self) -> Process | None:
        """The process that runs now, or is being started."""
        children = [child for pid in self._stages for child in procfs.children(pid)]
        workers = [child for child in children if _WORKER_MODULES.intersection(procfs.arguments(child.pid))]
        return workers[-1] if workers else None

    def look(self) -> str:
        """To be called every now and then.

        Returns:
            why the server must be started anew; empty if it need not.
        """
        if not self.away:
            if self._worker is not None and not self._worker.alive:
                self._take_out(self._worker)
            return ""
        return self._wait_for_answer()

    def _take_out(self, worker: Process) -> None:
        self._say(f"the engine's process (pid {worker.pid}) died: no requests are taken until a new one answers")
        for name in self._ensembles:
            probe.unload(self._settings.connect_host, self._settings.http_port, self._admin_key, name)
        self._away_since, self._failing_since = time.monotonic(), 0.0
        self._ask()

    def _ask(self) -> None:
        self._worker = self._find_worker()
        self._question = _Question(self._settings)

    def _wait_for_answer(self) -> str:
        now = time.monotonic()
        away_s = now - self._away_since
        if away_s > self._settings.start_timeout_s:
            return f"the engine has not answered for {away_s:.0f} s"
        answer = self._question.answer if self._question is not None else None
        if answer is None:
            return ""
        if not answer.ok:
            fails = ENGINE_CANNOT_START in answer.body
            self._failing_since = (self._failing_since or now) if fails else 0.0
            if fails and now - self._failing_since > GIVE_UP_S:
                return f"the engine's process could not be started for {away_s:.0f} s"
            self._ask()
            return ""
        if self._worker is None or not self._worker.alive:
            self._ask()  # who answered is gone again, or is not known: its death would be missed
            return ""
        return self._bring_back(away_s)

    def _bring_back(self, away_s: float) -> str:
        if self._pinned_version() != self._release_version:
            return "the engine is back, but another release was built meanwhile"
        for name in self._ensembles:
            loaded = probe.load(self._settings.connect_host, self._settings.http_port, self._admin_key, name)
            if not loaded.ok:
                return f"{name} cannot be loaded again: {loaded.body.strip()}"
        self._away_since, self._question = 0.0, None
        self._say(f"the engine answers again after {away_s:.1f} s")
        return ""

    def _pinned_version(self) -> int:
        path: Path = self._settings.repository / ENSEMBLE.name / CONFIG_FILE
        try:
            return pinned_version(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0


class _Question:
    """One token, asked of the engine itself in a thread, so that signals are heard meanwhile.

    Attributes:
        answer: None while it is not there.
    """

    def __init__(self, settings: Settings) -> None:
        self.answer: probe.Answer | None = None
        self._settings = settings
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        host, port = self._settings.connect_host, self._settings.http_port
        self.answer = probe.engine_token(host, port, self._settings.start_timeout_s)
