"""An engine in a worker process of its own.

Two reasons. The engine's step keeps Python's global lock while it computes, and would keep Triton's process from
sending. And a crash of native code takes down the worker alone: its requests end with UNAVAILABLE at once, and a new
worker is started. The same happens to a worker that stops answering.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from conch.contract import ASYNC_WORKER_MODULE, ENGINE_CANNOT_START, WORKER_MODULE
from conch.engines.base import Engine, EngineState, Failure, GenerationRequest, TokenSink
from conch.engines.interpreter import PACKAGES
from conch.engines.messages import Cancel, Step
from conch.engines.worker_link import WorkerLink
from conch.errors import UnavailableError
from conch.spec import Engine as EngineSpec

_log = logging.getLogger(__name__)
_CLOSE_TIMEOUT_S = 10
_LOOK_S = 1.0  # how often it is looked whether the worker still answers
# Pause before each attempt to start a worker after one that failed. A worker that ended soon counts as one: it would
# otherwise be loaded again and again, as fast as the machine can.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_STEADY_S = 60.0


class ProcessEngine(Engine):
    """Engine whose batcher runs in a child process.

    Args:
        engine_dir: compiled engine.
        spec: engine section of the spec.
        sink: where tokens go; called from a thread of this object.

    Raises:
        ConchError: the engine cannot be loaded.
    """

    def __init__(self, engine_dir: Path, spec: EngineSpec, sink: TokenSink) -> None:
        self._engine_dir, self._spec, self._sink = engine_dir, spec, sink
        self._lock = threading.Lock()  # of all below
        self._live: set[int] = set()
        self._owed = False  # the worker was told something, and has not answered yet
        self._closed = threading.Event()
        self._absence = ""  # why there is no worker
        self._state = self._past = EngineState()  # of this worker and those before it; of those before it
        self._worker = ASYNC_WORKER_MODULE if spec.runtime in PACKAGES else WORKER_MODULE
        self._link: WorkerLink | None = WorkerLink(self._worker, engine_dir, spec)
        self._thread = threading.Thread(target=self._run, args=(self._link,), name="engine-reader", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        with self._lock:
            if self._closed.is_set():
                raise UnavailableError("the engine is shutting down")
            if self._link is None:
                raise UnavailableError(self._absence)
            self._live.add(request.request_id)
            self._owed = True
            self._link.send(request)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            if request_id in self._live and self._link is not None:
                self._live.discard(request_id)
                self._owed = True
                self._link.send(Cancel(request_id))

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            if self._link is not None:
                self._link.shut()
        self._thread.join(_CLOSE_TIMEOUT_S)

    # --- on the reading thread ---------------------------------------------------------------------------------------

    def _run(self, link: WorkerLink) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            hung = self._read_until_end(link)
            self._without_worker(link, hung)
            if self._closed.is_set():
                return
            # After the first of them a new one is started at once.
            failures = 0 if time.monotonic() - begun >= _STEADY_S else failures + 1
            new_link = self._new_link(max(0, failures - 1))
            if new_link is None:
                return
            link = new_link

    def _read_until_end(self, link: WorkerLink) -> bool:
        """Deliver what comes until the worker ends or is ended; True if it did not answer any more."""
        look_s = min(_LOOK_S, self._spec.step_timeout_s / 4)
        silent_s = 0.0
        while True:
            try:
                message = link.receive(look_s)
            except EOFError:
                return False
            if message is not None:
                silent_s = 0.0
                self._deliver(message)
            # Looks are counted, not time: if this process was stopped as well, the worker is not to blame.
            elif self._owed:
                silent_s += look_s
                if silent_s >= self._spec.step_timeout_s:
                    link.kill()
                    return True

    def _deliver(self, message: Step) -> None:
        ended = []
        for event in message.events:
            if event.request_id not in self._live:  # cancelled while this was on its way
                continue
            if isinstance(event, Failure):
                ended.append(event.request_id)
                self._sink.failed(event.request_id, event.error)
            else:
                if event.finish_reason:
                    ended.append(event.request_id)
                self._sink.tokens(event)
        if message.events:
            self._sink.step_done()
        if message.state is not None:
            self._tell_state(message.state)
        with self._lock:
            self._live.difference_update(ended)
            self._owed = bool(self._live)

    def _tell_state(self, state: EngineState) -> None:
        """Hand on a worker's state; what is counted goes on from where the workers before it ended."""
        self._state = EngineState(
            state.kv_cache_usage,
            self._past.prefix_query_tokens + state.prefix_query_tokens,
            self._past.prefix_hit_tokens + state.prefix_hit_tokens,
        )
        self._sink.state(self._state)

    def _without_worker(self, link: WorkerLink, hung: bool) -> None:
        """The worker is gone: end its requests."""
        with self._lock:
            live, self._live = self._live, set()
            self._link, self._owed = None, False
            self._absence = "the engine is being restarted; try again in a few seconds"
        how = link.remove()
        if self._closed.is_set():
            reason = "the engine is shutting down"
        elif hung:
            reason = f"the engine stopped answering for {self._spec.step_timeout_s} s"
        else:
            reason = f"the engine process ended ({how})"
        for request_id in live:
            self._sink.failed(request_id, UnavailableError(reason))
        self._past = self._state
        self._tell_state(EngineState())
        if not self._closed.is_set():
            _log.error("%s; %d requests were in flight; a new one is started", reason, len(live))

    def _new_link(self, failures: int) -> WorkerLink | None:
        """Start workers until one comes up; None if the engine was closed meanwhile."""
        while True:
            if self._closed.wait(_pause_s(failures)):
                return None
            begun = time.monotonic()
            try:
                link = WorkerLink(self._worker, self._engine_dir, self._spec)
            except Exception as error:
                failures += 1
                text = "%s: %s; attempt %d failed, the next one is in %g s"
                _log.error(text, ENGINE_CANNOT_START, error, failures, _pause_s(failures))
                self._absence = f"{ENGINE_CANNOT_START}; the cause is in the server's log"
                continue
            with self._lock:
                if not self._closed.is_set():
                    self._link = link
                    _log.info("a new engine process is ready after %.1f s", time.monotonic() - begun)
                    return link
            link.remove()
            return None


def _pause_s(failures: int) -> float:
    return _PAUSES_S[min(failures, len(_PAUSES_S)) - 1] if failures else 0.0
