"""A worker process without a model, for tests of its parent: tells its process id, dies and stalls on command.

Started like conch.engines.worker, and uses its loop. Files in the engine folder say how it loads: ``refuse`` (an
error), ``crash`` (ends at once), ``killed`` (as by the kernel), ``wait`` (loads when the file is gone). Every token is
the process id. A prompt that begins with 1 is answered up to max_tokens; with 2: one token, then steps that last long
and produce nothing; with 7: one token, then a step that never ends; with 8: one token, then a step that raises; with
9: the process kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from conch.engines.base import EngineState, Event, GenerationRequest, Tokens
from conch.engines.messages import Started
from conch.engines.worker import Worker
from conch.errors import RepositoryError
from conch.spec import Engine as EngineSpec

ANSWER, STALL, HANG, BREAK, DIE = 1, 2, 7, 8, 9
STALL_STEP_S = 0.05


class PidBatcher:
    """See the module."""

    def __init__(self) -> None:
        self._live: dict[int, tuple[GenerationRequest, int]] = {}
        self._seen_tokens = 0

    @property
    def busy(self) -> bool:
        return bool(self._live)

    def add(self, request: GenerationRequest) -> None:
        self._live[request.request_id] = (request, 0)
        self._seen_tokens += len(request.input_ids)

    def cancel(self, request_id: int) -> None:
        self._live.pop(request_id, None)

    def step(self) -> list[Event]:
        events: list[Event] = []
        for request_id, (request, sent) in list(self._live.items()):
            kind = request.input_ids[0]
            if kind == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            if sent and kind == HANG:
                time.sleep(3600)
            if sent and kind == BREAK:
                raise RuntimeError("native code")
            if sent and kind == STALL:
                time.sleep(STALL_STEP_S)
                continue
            done = kind == ANSWER and sent + 1 == request.params.max_tokens
            events.append(Tokens(request_id, [os.getpid()], "length" if done else None))
            self._live[request_id] = (request, sent + 1)
            if done:
                del self._live[request_id]
        return events

    def state(self) -> EngineState:
        return EngineState(len(self._live) / 64, self._seen_tokens, 0)


def main() -> int:
    """Arguments: as of conch.engines.worker."""
    connection, folder = Connection(int(sys.argv[1])), Path(sys.argv[2])
    EngineSpec.model_validate_json(sys.argv[3])
    (folder / f"loading-{os.getpid()}").touch()
    if (folder / "killed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / "crash").exists():
        return 3
    while (folder / "wait").exists():
        time.sleep(0.01)
    if (folder / "refuse").exists():
        connection.send(Started(RepositoryError("the engine folder holds no engine")))
        return 1
    connection.send(Started(None))
    return Worker(connection, PidBatcher()).run()


if __name__ == "__main__":
    sys.exit(main())
