"""A worker process and the socket to it."""

from __future__ import annotations

import logging
import queue
import signal
import socket
import subprocess
import threading
from pathlib import Path

from conch.engines.interpreter import PACKAGES, engine_command
from conch.engines.messages import Command, Started, Step
from conch.engines.offspring import end_offspring, marked_environment
from conch.engines.wire import Wire
from conch.errors import UnavailableError
from conch.spec import Engine as EngineSpec

_log = logging.getLogger(__name__)
_END_TIMEOUT_S = 2.0  # of a process that has closed its socket, or was told to end
_END_OTHERS_TIMEOUT_S = 8.0  # of one that has others to end
_EXIT_S = 10.0
# Of a worker that was killed while it loaded: the kernel does that, or a container's limit.
_OUT_OF_MEMORY = (
    "Most likely memory ran out: free some, raise the container's limit, or build with a smaller engine.kv_cache_gib, "
    "smaller weights or a smaller model"
)


class WorkerLink:
    """Starts a worker and waits until it has loaded the engine.

    A thread of its own writes to the socket, so that a worker that does not read holds up nobody.

    Args:
        module: what to run, in the Python of the spec's runtime.
        engine_dir: compiled engine.
        spec: engine section of the spec.

    Attributes:
        pid: id of the process.

    Raises:
        ConchError: it cannot be started; nothing is left of it.
    """

    def __init__(self, module: str, engine_dir: Path, spec: EngineSpec) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            command = engine_command(spec.runtime, module, [str(fd), str(engine_dir), spec.model_dump_json()])
            try:
                self._environment = marked_environment()
                self._process = subprocess.Popen(
                    command, pass_fds=[fd], stdin=subprocess.DEVNULL, env=self._environment
                )
            except OSError as error:
                ours.close()
                raise UnavailableError(f"the engine process cannot be started: {error.strerror}") from None
        self.pid = self._process.pid
        self._end_timeout_s = _END_OTHERS_TIMEOUT_S if spec.runtime in PACKAGES else _END_TIMEOUT_S
        self._connection = Wire(ours.detach())
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="engine-writer", daemon=True)
        self._writer.start()
        try:
            started = self._connection.recv()
        except (EOFError, OSError):
            how = self.remove()
            mend = _OUT_OF_MEMORY if self._process.returncode == -signal.SIGKILL else ""
            raise UnavailableError(f"the engine process ended while loading ({how})", mend=mend) from None
        assert isinstance(started, Started)
        if started.error is not None:
            self.remove(_EXIT_S)
            raise started.error

    def send(self, command: Command) -> None:
        """Queue a command; returns at once. To a worker that is gone: nothing happens."""
        self._commands.put(command)

    def receive(self, timeout_s: float) -> Step | None:
        """The worker's next message; None if there is none in time.

        Raises:
            EOFError: the worker is gone.
        """
        try:
            if not self._connection.poll(timeout_s):
                return None
            message = self._connection.recv()
        except OSError:
            raise EOFError from None
        assert isinstance(message, Step)
        return message

    def shut(self) -> None:
        """Close the connection to the worker, which then ends; who receives gets EOFError."""
        # shutdown, since close alone would not wake the reader.
        with socket.socket(fileno=self._connection.fileno()) as ours:
            try:
                ours.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the worker was faster
            finally:
                ours.detach()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()

    def remove(self, timeout_s: float | None = None) -> str:
        """See it to its end: what does not end in time is killed, and so is what it has left.

        Args:
            timeout_s: None: what an end takes.

        Returns:
            how it ended.
        """
        self.shut()
        try:
            code = self._process.wait(self._end_timeout_s if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        strays = end_offspring(self._environment)
        if strays:
            _log.warning("%d processes of an engine's worker had outlived it, and were ended", strays)
        self._commands.put(None)
        self._writer.join()
        self._connection.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _write_all(self) -> None:
        while (command := self._commands.get()) is not None:
            try:
                self._connection.send(command)
            except OSError:
                return  # the worker is gone; the reader sees it, too
