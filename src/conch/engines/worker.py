"""The process that an engine's core runs in: takes commands from a socket, runs steps, sends back what they produced.

One message per step, whatever the number of requests in it. Started by conch.engines.process; ends when the other
side of the socket does, and when a step fails: OpenVINO GenAI refuses every step after one that raised while other
requests were in the batch, so nothing but a new process is sure to work.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from conch.engines.base import CANCEL_STEPS, Batcher, Event, Failure, GenerationRequest
from conch.engines.messages import Cancel, Started, Step
from conch.engines.openvino import OpenVinoBatcher
from conch.engines.wire import Wire
from conch.errors import ConchError, InternalError
from conch.spec import Engine as EngineSpec

_log = logging.getLogger(__name__)
STATE_EVERY_S = 0.1
EXIT_BROKEN = 70  # a step failed; EX_SOFTWARE of sysexits.h


class Worker:
    """Drives a batcher from a connection.

    Args:
        connection: receives Command, sends Message.
        batcher: the engine's core.
    """

    def __init__(self, connection: Wire, batcher: Batcher) -> None:
        self._connection = connection
        self._batcher = batcher
        self._live: set[int] = set()
        self._news = False  # something changed since the state was last sent
        self._state_sent_at = 0.0
        self._steps = 0
        self._tell_after: set[int] = set()  # steps in which cancels take effect: then the state is sent at once

    def run(self) -> int:
        """Work until the other side closes the connection, or a step fails.

        Returns:
            exit code of the process: 0, or EXIT_BROKEN.
        """
        try:
            while True:
                events = self._take_in()
                if self._batcher.busy:
                    self._news = True
                    try:
                        events += self._batcher.step()
                    except Exception:
                        self._connection.send(Step(events + self._broken()))
                        return EXIT_BROKEN
                    self._steps += 1
                self._send(events)
        except (EOFError, ConnectionError):
            return 0

    def _take_in(self) -> list[Event]:
        """Read the commands that are there; wait for one when there is nothing else to do."""
        failures: list[Event] = []
        while self._connection.poll(0 if self._batcher.busy or self._news or failures else None):
            command = self._connection.recv()
            if isinstance(command, Cancel):
                self._live.discard(command.request_id)
                self._batcher.cancel(command.request_id)
                self._tell_after.add(self._steps + CANCEL_STEPS)
                self._news = True
            elif (error := self._add(command)) is not None:
                failures.append(Failure(command.request_id, error))
        return failures

    def _add(self, request: GenerationRequest) -> ConchError | None:
        try:
            self._batcher.add(request)
        except ConchError as error:
            return error
        except Exception:
            _log.exception("the engine failed to take a request in")
            return InternalError("the engine failed to take the request in; the cause is in the server's log")
        self._live.add(request.request_id)
        return None

    def _send(self, events: list[Event]) -> None:
        now = time.monotonic()
        state = None
        due = not self._batcher.busy or self._steps in self._tell_after or now - self._state_sent_at >= STATE_EVERY_S
        self._tell_after.discard(self._steps)
        if self._news and due:
            state = self._batcher.state()
            self._news, self._state_sent_at = False, now
        if events or state is not None:
            self._live -= {e.request_id for e in events if isinstance(e, Failure) or e.finish_reason}
            self._connection.send(Step(events, state))

    def _broken(self) -> list[Event]:
        _log.exception("a step of the engine failed; %d requests end, and this process", len(self._live))
        error = InternalError("the engine failed while generating; the cause is in the server's log")
        return [Failure(request_id, error) for request_id in self._live]


def main() -> int:
    """Arguments: file descriptor of the socket, engine folder, engine section of the spec as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine-worker %(levelname)s %(message)s")
    connection = Wire(int(sys.argv[1]))
    try:
        batcher = OpenVinoBatcher(Path(sys.argv[2]), EngineSpec.model_validate_json(sys.argv[3]))
    except ConchError as error:
        connection.send(Started(error))
        return 1
    connection.send(Started(None))
    return Worker(connection, batcher).run()


if __name__ == "__main__":
    sys.exit(main())
