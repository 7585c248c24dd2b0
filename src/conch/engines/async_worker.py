"""The process that an asynchronous engine runs in: vLLM, or TensorRT-LLM's LLM API. conch.engines.process starts it.

One event loop takes commands from the socket and sends back what the engine produced: what came of one step of the
engine goes out in one message. It ends when the other side of the socket does, and when the engine is dead: nothing but
a new process is sure to work then. A sign of life is sent only when the engine has done a step, so who watches this
process watches the engine.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from conch.engines.base import Event, Failure, GenerationRequest, Report, StreamingCore
from conch.engines.messages import Cancel, Command, Started, Step
from conch.engines.offspring import end_when_left_alone
from conch.engines.wire import Wire
from conch.engines.worker import EXIT_BROKEN, STATE_EVERY_S
from conch.errors import ConchError, InternalError
from conch.spec import Engine as EngineSpec
from conch.spec import Runtime

_log = logging.getLogger(__name__)
OpenCore = Callable[[Report], Awaitable[StreamingCore]]


class AsyncWorker(Report):
    """Drives a streaming core from a connection. ``run`` must be called on the event loop that everything is on.

    Args:
        connection: receives Command, sends Message.
    """

    def __init__(self, connection: Wire) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._core: StreamingCore | None = None
        self._live: set[int] = set()
        self._events: list[Event] = []
        self._news = False  # something changed since the state was last sent
        self._state_sent_at = 0.0
        self._flush_due = False

    async def run(self, open_core: OpenCore) -> int:
        """Load the engine, then work until the other side closes the connection, or the engine is dead.

        Returns:
            exit code of the process: 0, 1 if it could not be loaded, or EXIT_BROKEN.
        """
        try:
            self._core = await open_core(self)
        except ConchError as error:
            self._send(Started(error))
            return 1
        self._send(Started(None))
        self._loop.add_reader(self._connection.fileno(), self._take_in)
        try:
            return await self._exit
        finally:
            self._loop.remove_reader(self._connection.fileno())
            await self._core.close()

    # --- Report ------------------------------------------------------------------------------------------------------

    def events(self, events: Sequence[Event]) -> None:
        self._events += [event for event in events if event.request_id in self._live]  # others are cancelled
        self._live -= {e.request_id for e in events if isinstance(e, Failure) or e.finish_reason is not None}
        self._soon()

    def alive(self) -> None:
        self._soon()

    def broken(self, reason: str) -> None:
        _log.error("the engine is dead: %s", reason)
        self._end(EXIT_BROKEN)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        try:
            while self._connection.poll():
                self._obey(self._connection.recv())
        except (EOFError, OSError):
            self._end(0)

    def _obey(self, command: Command) -> None:
        assert self._core is not None
        if isinstance(command, Cancel):
            self._live.discard(command.request_id)
            self._core.cancel(command.request_id)
            self._soon()
            return
        self._live.add(command.request_id)
        error = self._add(self._core, command)
        if error is not None:
            self.events([Failure(command.request_id, error)])

    @staticmethod
    def _add(core: StreamingCore, request: GenerationRequest) -> ConchError | None:
        try:
            core.add(request)
        except ConchError as error:
            return error
        except Exception:
            _log.exception("the engine failed to take a request in")
            return InternalError("the engine failed to take the request in; the cause is in the server's log")
        return None

    # --- messages ----------------------------------------------------------------------------------------------------

    def _soon(self) -> None:
        """Send when the loop has run what is ready now: all that one step of the engine woke."""
        self._news = True
        if not self._flush_due and self._core is not None:  # else it is not loaded yet
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        assert self._core is not None
        now = time.monotonic()
        state = None
        if self._news and (not self._live or now - self._state_sent_at >= STATE_EVERY_S):
            state = self._core.state()
            self._news, self._state_sent_at = False, now
        events, self._events = self._events, []
        if events or state is not None:
            self._send(Step(events, state))

    def _send(self, message: Started | Step) -> None:
        try:
            self._connection.send(message)
        except OSError:
            self._end(0)

    def _end(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)


def core_opener(engine_dir: Path, spec: EngineSpec) -> OpenCore:
    """What loads the engine that a spec names.

    Args:
        engine_dir: checkpoint, as the build laid it down.
        spec: engine section of the spec.
    """
    if spec.runtime is Runtime.VLLM:
        from conch.engines.vllm_core import open_vllm

        return lambda report: open_vllm(engine_dir, spec, report)
    from conch.engines.llmapi_core import open_llmapi

    return lambda report: open_llmapi(engine_dir, spec, report)


async def work(connection: Wire, open_core: OpenCore) -> int:
    """Run a worker on this event loop; returns the exit code."""
    return await AsyncWorker(connection).run(open_core)


def main() -> int:
    """Arguments: file descriptor of the socket, engine folder, engine section of the spec as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine-worker %(levelname)s %(message)s")
    connection = Wire(int(sys.argv[1]))
    end_when_left_alone(connection.fileno())
    try:
        opener = core_opener(Path(sys.argv[2]), EngineSpec.model_validate_json(sys.argv[3]))
    except ConchError as error:
        connection.send(Started(error))
        return 1
    return asyncio.run(work(connection, opener))


if __name__ == "__main__":
    sys.exit(main())
