"""No guide reaches the engine before a process of its own has tried it out.

A guide that does not compile breaks the engine's pipeline for everybody in it, and a hostile one takes the process
down or keeps it busy for minutes. So every guide that is not known yet goes through conch.engines.guide_checker first.
Only requests with guides wait for that, and while they do they have no place in the engine.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import threading
from collections import OrderedDict, deque
from multiprocessing.connection import Connection
from pathlib import Path

from conch.engines.base import Engine, GenerationRequest
from conch.engines.guide_checker import CPU_LIMIT_S, MEMORY_LIMIT_BYTES
from conch.engines.guide_compiler import guide_of, refusal
from conch.engines.interpreter import PACKAGES, engine_command
from conch.engines.messages import Started
from conch.engines.queue import Load, RequestQueue
from conch.errors import ConchError, RepositoryError, UnavailableError
from conch.sampling import Guide
from conch.spec import Runtime

_log = logging.getLogger(__name__)
_CHECKER = "conch.engines.guide_checker"
_XGRAMMAR_CHECKER = "conch.engines.xgrammar_checker"
_START_LIMIT_S = 120.0
_CHECK_LIMIT_S = 60.0  # the checker's own limit is of processor time, which does not depend on what else runs
_MAX_VERDICTS = 1000
_TOO_COSTLY = (
    f"it takes more than {CPU_LIMIT_S} s of processor time or {MEMORY_LIMIT_BYTES >> 20} MiB of memory, or is nested "
    "too deeply"
)
# How a process ends that reached its limits: of processor time, of its stack, of memory in native code.
_LIMIT_SIGNALS = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)


class GuideChecks(Engine):
    """A line in which a request with a guide takes its turn when its guide has been found good.

    Args:
        queue: the line; it holds the requests whose guides are not known yet.
        engine_dir: compiled engine, in the folder of its release.
        runtime: of the spec; its engine's own compiler tries the guides out.
    """

    def __init__(self, queue: RequestQueue, engine_dir: Path, runtime: Runtime = Runtime.OPENVINO) -> None:
        self._queue = queue
        self._checker = CheckerProcess(engine_dir, runtime)
        self._changed = threading.Condition()  # of all below
        self._unchecked: deque[tuple[GenerationRequest, Guide]] = deque()
        self._verdicts: OrderedDict[Guide, str] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def load(self) -> Load:
        """Of the line."""
        return self._queue.load

    def submit(self, request: GenerationRequest) -> None:
        guide = guide_of(request.params)
        with self._changed:
            if guide is not None and self._closed:
                raise UnavailableError("the engine is shutting down")
            reason = "" if guide is None else self._verdicts.get(guide)
            if guide is not None and reason is None:
                self._queue.submit(request, held=True)
                self._unchecked.append((request, guide))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._check_all, name="guide-checks", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        if reason:
            raise refusal(request.params, reason)
        self._queue.submit(request)

    def cancel(self, request_id: int) -> None:
        self._queue.cancel(request_id)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._checker.close()
        if self._thread is not None:
            self._thread.join()
        self._queue.close()

    def _check_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unchecked or self._closed)
                if self._closed:
                    return
                request, guide = self._unchecked.popleft()
            if not self._queue.holds(request.request_id):  # given up meanwhile
                continue
            try:
                reason = self._reason(guide)
                if reason:
                    raise refusal(request.params, reason)
                self._queue.release(request.request_id)
            except Exception as error:
                if not isinstance(error, ConchError) or isinstance(error, RepositoryError):
                    _log.exception("a guide could not be checked")
                    error = UnavailableError("guides cannot be checked now; the cause is in the server's log")
                self._queue.refuse(request.request_id, error)

    def _reason(self, guide: Guide) -> str:
        """What is wrong with a guide; empty if nothing.

        Raises:
            ConchError: it cannot be found out.
        """
        reason = self._verdicts.get(guide)
        if reason is None:
            reason = self._checker.check(guide)
        with self._changed:
            self._verdicts[guide] = reason
            self._verdicts.move_to_end(guide)
            if len(self._verdicts) > _MAX_VERDICTS:
                self._verdicts.popitem(last=False)
        return reason


class CheckerProcess:
    """The other side of conch.engines.guide_checker: started when first needed, and again after it has died.

    Args:
        engine_dir: compiled engine, in the folder of its release.
        runtime: of the spec.
    """

    def __init__(self, engine_dir: Path, runtime: Runtime = Runtime.OPENVINO) -> None:
        self._engine_dir, self._runtime = engine_dir, runtime
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False

    def check(self, guide: Guide) -> str:
        """What is wrong with a guide; empty if nothing.

        Raises:
            ConchError: it cannot be found out.
        """
        for _ in range(2):
            connection = self._connection or self._start()
            try:
                connection.send(guide)
            except OSError:  # it had grown and ended itself
                self._end()
                continue
            try:
                if connection.poll(_CHECK_LIMIT_S):
                    reason: str = connection.recv()
                    return reason
            except (EOFError, OSError):
                pass
            if self._closed:
                break
            code = self._end()
            _log.warning("the guide checker ended over a guide of type %s (%s)", guide.type, _how(code))
            if code is not None and -code in _LIMIT_SIGNALS:
                return _TOO_COSTLY
            raise UnavailableError("the guide could not be checked: the guide checker was ended")
        raise UnavailableError("guides cannot be checked while the engine is shutting down")

    def close(self) -> None:
        """End the process; a check that is under way ends with an error."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        connection = Connection(ours.detach())
        module = _XGRAMMAR_CHECKER if self._runtime in PACKAGES else _CHECKER
        command = engine_command(self._runtime, module, [str(theirs.fileno()), str(self._engine_dir)])
        with self._lock, theirs:
            if self._closed:
                connection.close()
                raise UnavailableError("the engine is shutting down")
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._connection = connection
        error: ConchError | None = UnavailableError("guides cannot be checked now: the guide checker does not start")
        try:
            if connection.poll(_START_LIMIT_S):
                started = connection.recv()
                assert isinstance(started, Started)
                error = started.error
        except (EOFError, OSError):
            pass
        if error is not None:
            _log.error("the guide checker cannot be started (%s): %s", _how(self._end()), error)
            raise error
        return connection

    def _end(self) -> int | None:
        """Let go of the process; its return code, as of subprocess.Popen. None: it was not running."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return None
        with self._lock:
            try:
                code = self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
        return code


def _how(code: int | None) -> str:
    if code is None:
        return "it was not running"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
