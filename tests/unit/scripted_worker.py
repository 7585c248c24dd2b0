"""A worker process without a model, for tests of its parent: tells its process id, dies and stalls on command.

Started like conch.engines.worker, and uses its loop. Files in the engine folder say how it loads: ``refuse`` (an
error), ``crash`` (ends at once), ``wait`` (loads when the file is gone). Every token is the process id. A prompt that
begins with 1 is answered up to max_tokens; with 2: one token, then nothing; with 9: the process kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from conch.engines.base import Event, GenerationRequest, Tokens
from conch.engines.messages import Started
from conch.engines.worker import Worker
from conch.errors import RepositoryError
from conch.spec import Engine as EngineSpec

ANSWER, STALL, DIE = 1, 2, 9


class PidBatcher:
    """See the module."""

    def __init__(self) -> None:
        self._live: dict[int, tuple[GenerationRequest, int]] = {}

    @property
    def busy(self) -> bool:
        return any(self._goes_on(request, sent) for request, sent in self._live.values())

    def add(self, request: GenerationRequest) -> None:
        self._live[request.request_id] = (request, 0)

    def cancel(self, request_id: int) -> None:
        self._live.pop(request_id, None)

    def step(self) -> list[Event]:
        events: list[Event] = []
        for request_id, (request, sent) in list(self._live.items()):
            if not self._goes_on(request, sent):
                continue
            if request.input_ids[0] == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            done = request.input_ids[0] == ANSWER and sent + 1 == request.params.max_tokens
            events.append(Tokens(request_id, [os.getpid()], "length" if done else None))
            self._live[request_id] = (request, sent + 1)
            if done:
                del self._live[request_id]
        return events

    @staticmethod
    def _goes_on(request: GenerationRequest, sent: int) -> bool:
        return request.input_ids[0] != STALL or sent == 0


def main() -> None:
    """Arguments: as of conch.engines.worker."""
    connection, folder = Connection(int(sys.argv[1])), Path(sys.argv[2])
    EngineSpec.model_validate_json(sys.argv[3])
    (folder / f"loading-{os.getpid()}").touch()
    if (folder / "crash").exists():
        sys.exit(3)
    while (folder / "wait").exists():
        time.sleep(0.01)
    if (folder / "refuse").exists():
        connection.send(Started(RepositoryError("the engine folder holds no engine")))
        return
    connection.send(Started(None))
    Worker(connection, PidBatcher()).run()


if __name__ == "__main__":
    main()
