"""No guide reaches the engine before a process of its own has tried it out.

A guide that does not compile breaks the engine's pipeline for everybody in it, and a hostile one takes the process
down or keeps it busy for minutes. So every guide that is not known yet goes through conch.engines.guide_checker first.
Only requests with guides wait for that.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import threading
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path

from conch.engines.base import Engine, GenerationRequest, TokenSink
from conch.engines.guide_checker import CPU_LIMIT_S, MEMORY_LIMIT_BYTES
from conch.engines.guide_compiler import guide_of, refusal
from conch.engines.interpreter import PACKAGES, engine_command
from conch.engines.messages import Started
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


class GuideChecks(Engine):
    """An engine to which a request with a guide goes when its guide has been found good.

    Args:
        engine: answers the requests.
        engine_dir: compiled engine, in the folder of its release.
        sink: told of requests that end before they reach the engine; called from a thread of this object.
        runtime: of the spec; its engine's own compiler tries the guides out.
    """

    def __init__(
        self, engine: Engine, engine_dir: Path, sink: TokenSink, runtime: Runtime = Runtime.OPENVINO
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._checker = CheckerProcess(engine_dir, runtime)
        self._changed = threading.Condition()  # of all below
        self._waiting: dict[int, tuple[GenerationRequest, Guide]] = {}
        self._verdicts: OrderedDict[Guide, str] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, request: GenerationRequest) -> None:
        guide = guide_of(request.params)
        if guide is None:
            self._engine.submit(request)
            return
        with self._changed:
            if self._closed:
                raise UnavailableError("the engine is shutting down")
            reason = self._verdicts.get(guide)
            if reason is None:
                self._waiting[request.request_id] = request, guide
                if self._thread is None:
                    self._thread = threading.Thread(target=self._check_all, name="guide-checks", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        if reason:
            raise refusal(request.params, reason)
        self._engine.submit(request)

    def cancel(self, request_id: int) -> None:
        with self._changed:
            waited = self._waiting.pop(request_id, None) is not None
        if not waited:
            self._engine.cancel(request_id)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            waiting, self._waiting = list(self._waiting), {}
            self._changed.notify()
        for request_id in waiting:
            self._sink.failed(request_id, UnavailableError("the engine is shutting down"))
        self._checker.close()
        if self._thread is not None:
            self._thread.join()
        self._engine.close()

    def _check_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                request, guide = next(iter(self._waiting.values()))
            try:
                self._check(request, guide)
            except Exception as error:
                if not isinstance(error, ConchError) or isinstance(error, RepositoryError):
                    _log.exception("a guide could not be checked")
                    error = UnavailableError("guides cannot be checked now; the cause is in the server's log")
                with self._changed:
                    waited = self._waiting.pop(request.request_id, None) is not None
                if waited:
                    self._sink.failed(request.request_id, error)
                    self._sink.step_done()

    def _check(self, request: GenerationRequest, guide: Guide) -> None:
        """Find out about a request's guide, and hand the request on.

        Raises:
            ConchError: it is refused.
        """
        reason = self._verdicts.get(guide)
        if reason is None:
            reason = self._checker.check(guide)
        with self._changed:
            self._verdicts[guide] = reason
            self._verdicts.move_to_end(guide)
            if len(self._verdicts) > _MAX_VERDICTS:
                self._verdicts.popitem(last=False)
            if reason:
                raise refusal(request.params, reason)
            if request.request_id in self._waiting:
                self._engine.submit(request)
                del self._waiting[request.request_id]


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
            _log.warning("a guide of type %s was too much for the guide checker (%s)", guide.type, self._end())
            return _TOO_COSTLY
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
            _log.error("the guide checker cannot be started (%s): %s", self._end(), error)
            raise error
        return connection

    def _end(self) -> str:
        """Let go of the process; how it ended."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return "it was not running"
        with self._lock:
            try:
                code = self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"
