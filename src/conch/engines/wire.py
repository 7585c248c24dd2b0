"""The socket between an engine's process and its parent.

A worker looks for commands and sends what came of a step while the engine stands still, so what that takes is lost
to every request: ``Connection.poll`` makes a selector each time, and ``Connection.send`` a pickler with tables of its
own. Seen with one stream: 180 microseconds of a step of 9.5 ms.
"""

from __future__ import annotations

import pickle
import select
from multiprocessing.connection import Connection
from typing import Any


class Wire(Connection):
    """A Connection that costs less to look at and to write to.

    Args:
        handle: file descriptor of a stream socket; closed with the object.
    """

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is something to receive, an end included.

        Args:
            timeout: seconds to wait for it; None: as long as it takes.
        """
        return bool(self._poll.poll(None if timeout is None else timeout * 1000))

    def send(self, obj: Any) -> None:
        """Send an object.

        Raises:
            OSError: the other side is gone.
        """
        self.send_bytes(pickle.dumps(obj, pickle.HIGHEST_PROTOCOL))
