"""How many requests may be under way at a time."""

from __future__ import annotations

from collections import deque

from gevent.event import Event


class Places:
    """So many; whoever waits gets one in the order of coming. gevent's semaphore lets those pass who come right when
    one becomes free, and then some wait for ever.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[Event] = deque()

    def __enter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn = Event()
        self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn.is_set():  # it was handed over just now
                self._leave()
            else:
                self._waiting.remove(turn)
            raise

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1
