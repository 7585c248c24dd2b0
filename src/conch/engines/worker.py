"""The process that an engine's core runs in: takes commands from a socket, runs steps, sends back what they produced.

One message per step, whatever the number of requests in it. Started by conch.engines.process; ends when the other
side of the socket does.
"""

from __future__ import annotations

import logging
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from conch.engines.base import Batcher, Event, Failure
from conch.engines.messages import Cancel, Started, Step
from conch.engines.openvino import OpenVinoBatcher
from conch.errors import ConchError, InternalError
from conch.spec import Engine as EngineSpec

_log = logging.getLogger(__name__)


class Worker:
    """Drives a batcher from a connection.

    Args:
        connection: receives Command, sends Message.
        batcher: the engine's core.
    """

    def __init__(self, connection: Connection, batcher: Batcher) -> None:
        self._connection = connection
        self._batcher = batcher
        self._live: set[int] = set()

    def run(self) -> None:
        """Work until the other side closes the connection."""
        try:
            while True:
                events = self._take_in()
                if self._batcher.busy:
                    events += self._step()
                if events:
                    self._live -= {e.request_id for e in events if isinstance(e, Failure) or e.finish_reason}
                    self._connection.send(Step(events))
        except (EOFError, ConnectionError):
            return

    def _take_in(self) -> list[Event]:
        """Read the commands that are there; wait for one when there is nothing else to do."""
        failures: list[Event] = []
        while self._connection.poll(0 if self._batcher.busy or failures else None):
            command = self._connection.recv()
            if isinstance(command, Cancel):
                self._live.discard(command.request_id)
                self._batcher.cancel(command.request_id)
                continue
            try:
                self._batcher.add(command)
                self._live.add(command.request_id)
            except ConchError as error:
                failures.append(Failure(command.request_id, error))
        return failures

    def _step(self) -> list[Event]:
        try:
            return self._batcher.step()
        except Exception:
            _log.exception("a step of the engine failed; %d requests end", len(self._live))
            for request_id in self._live:
                self._batcher.cancel(request_id)
            error = InternalError("the engine failed while generating; the cause is in the server's log")
            return [Failure(request_id, error) for request_id in self._live]


def main() -> None:
    """Arguments: file descriptor of the socket, engine folder, engine section of the spec as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine-worker %(levelname)s %(message)s")
    connection = Connection(int(sys.argv[1]))
    try:
        batcher = OpenVinoBatcher(Path(sys.argv[2]), EngineSpec.model_validate_json(sys.argv[3]))
    except ConchError as error:
        connection.send(Started(error))
        return
    connection.send(Started(None))
    Worker(connection, batcher).run()


if __name__ == "__main__":
    main()
