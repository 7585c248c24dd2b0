"""Asking another model from within a model, when more than one thread does.

Triton's stub drops its own hold on a stream of responses on a thread that does not hold the interpreter's lock. If the
model's code has let go of the stream by then, the arrays of its responses are freed there, beside whatever Python runs
at that moment: memory is corrupted, and the stub dies, now here, now there. So streams are held until the stub has let
go. (python_backend, ``Stub::SendCleanupId`` erases the ``ResponseIterator`` from its map; up to Triton 26.07 at least.
Seen with 127 streams ended at a time beside two busy processes: the stub died within 30 rounds, and no more since.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import triton_python_backend_utils as pb_utils

_ROUND_S = 1.0  # the stub lets go within a round trip to Triton, which takes about a millisecond


class Keeper:
    """Holds objects for one to two rounds.

    Rounds are counted by a thread that sleeps, so a process that was stopped does not wake up with a clock that has run
    out.
    """

    def __init__(self, round_s: float = _ROUND_S) -> None:
        self._round_s = round_s
        self._lock = threading.Lock()
        self._young: list[object] = []
        self._old: list[object] = []
        self._thread: threading.Thread | None = None

    def keep(self, held: object) -> None:
        """Hold an object. Any thread."""
        with self._lock:
            self._young.append(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bls-keeper", daemon=True)
                self._thread.start()

    def __len__(self) -> int:
        with self._lock:
            return len(self._young) + len(self._old)

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._round_s)
            with self._lock:
                dropped, self._old, self._young = self._old, self._young, []
            del dropped  # here, and not under the lock: it may be much


_keeper = Keeper()


class Responses:
    """The responses of a decoupled model, as they come.

    The request is sent when the first one is asked for. Whoever asks is held until there is one.

    Args:
        request: to another model.
    """

    def __init__(self, request: pb_utils.InferenceRequest) -> None:
        self._request = request
        self._begun: Iterable[pb_utils.InferenceResponse] | None = None

    def __iter__(self) -> Iterator[pb_utils.InferenceResponse]:
        self._begun = responses = self._request.exec(decoupled=True)
        try:
            yield from responses
        finally:
            _keeper.keep(responses)

    def cancel(self) -> None:
        """Let Triton cancel a request that has had a response. Any thread. Triton 2.51 cannot: nothing happens."""
        cancel = getattr(self._begun, "cancel", None)  # python_backend from r25.04 on
        if cancel is not None:
            cancel()


def stream(request: pb_utils.InferenceRequest) -> Iterator[pb_utils.InferenceResponse]:
    """The responses of a decoupled model, as they come; see ``Responses``."""
    return iter(Responses(request))
