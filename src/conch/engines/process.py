"""An engine in a worker process of its own.

Two reasons. The engine's step keeps Python's global lock while it computes, and would keep Triton's process from
sending. And a crash of native code takes down the worker alone: its requests end with UNAVAILABLE at once, and a new
worker is started.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from conch.engines.base import Engine, Failure, GenerationRequest, TokenSink
from conch.engines.messages import Cancel, Command, Started, Step
from conch.errors import UnavailableError
from conch.spec import Engine as EngineSpec

_log = logging.getLogger(__name__)
_WORKER = "conch.engines.worker"
_CLOSE_TIMEOUT_S = 10
_RESTART_PAUSE_S = 1.0  # between attempts to start a worker that does not come up


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
        self._command = [sys.executable, "-m", _WORKER, "{fd}", str(engine_dir), spec.model_dump_json()]
        self._sink = sink
        self._lock = threading.Lock()  # of all below
        self._live: set[int] = set()
        self._closed = False
        self._connection: Connection | None = None
        self._process, self._connection = self._start()
        self._thread = threading.Thread(target=self._read_all, name="engine-reader", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        with self._lock:
            if self._closed:
                raise UnavailableError("the engine is shutting down")
            if self._connection is None:
                raise UnavailableError("the engine is being restarted; try again in a few seconds")
            self._live.add(request.request_id)
            self._send(request)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            if request_id in self._live:
                self._live.discard(request_id)
                self._send(Cancel(request_id))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._connection is not None:
                # Ends the worker, and with it the reading thread: shutdown, since close alone would not wake the
                # reader.
                with socket.socket(fileno=self._connection.fileno()) as ours:
                    ours.shutdown(socket.SHUT_RDWR)
                    ours.detach()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _send(self, command: Command) -> None:
        assert self._connection is not None
        try:
            self._connection.send(command)
        except OSError:  # the worker is gone; the reading thread is about to see it and fails what is live
            _log.warning("the engine process is gone")

    def _start(self) -> tuple[subprocess.Popen[bytes], Connection]:
        """Start a worker and wait until it has loaded the engine.

        Raises:
            ConchError: it cannot.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            command = [part.replace("{fd}", str(fd)) if part == "{fd}" else part for part in self._command]
            process = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL)
        connection = Connection(ours.detach())
        try:
            started = connection.recv()
        except (EOFError, OSError):
            raise UnavailableError(f"the engine process ended while loading ({_how(process)})") from None
        assert isinstance(started, Started)
        if started.error is not None:
            process.wait()
            raise started.error
        return process, connection

    def _read_all(self) -> None:
        while True:
            self._read_until_end()
            with self._lock:
                live, self._live = self._live, set()
                closed, self._connection = self._closed, None
            reason = "the engine is shutting down" if closed else f"the engine process ended ({_how(self._process)})"
            for request_id in live:
                self._sink.failed(request_id, UnavailableError(reason))
            self._sink.step_done()
            if closed:
                _stop(self._process)
                return
            _log.error("%s; %d requests were in flight; a new one is started", reason, len(live))
            if not self._restart():
                return

    def _read_until_end(self) -> None:
        connection, sink = self._connection, self._sink
        assert connection is not None
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                connection.close()
                return
            assert isinstance(message, Step)
            ended = []
            for event in message.events:
                if event.request_id not in self._live:  # cancelled while this was on its way
                    continue
                if isinstance(event, Failure):
                    ended.append(event.request_id)
                    sink.failed(event.request_id, event.error)
                else:
                    if event.finish_reason:
                        ended.append(event.request_id)
                    sink.tokens(event)
            sink.step_done()
            if ended:
                with self._lock:
                    self._live.difference_update(ended)

    def _restart(self) -> bool:
        """Start workers until one comes up; False if the engine was closed meanwhile."""
        while not self._closed:
            begun = time.monotonic()
            try:
                process, connection = self._start()
            except Exception as error:
                _log.error("the engine process cannot be started: %s", error)
                time.sleep(_RESTART_PAUSE_S)
                continue
            with self._lock:
                if not self._closed:
                    self._process, self._connection = process, connection
                    _log.info("a new engine process is ready after %.1f s", time.monotonic() - begun)
                    return True
            connection.close()
            _stop(process)
        return False


def _how(process: subprocess.Popen[bytes]) -> str:
    """How a process ended."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
