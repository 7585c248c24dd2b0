"""Notices clients that gave their request up, so that nothing is computed for nobody.

A call that came straight to the engine can be asked. A call that came through an ensemble cannot (conch.triton.
receipts tells why): the detokenizer's receipts are followed instead. A missing one proves nothing by itself, since the
detokenizer may be slow. So the watch sends the detokenizer a request of its own, which queues behind whatever the
engine sent before. When that one is answered and the receipt is still missing, the ensemble has dropped what was sent.

An ensemble's call that is not streamed has no response to ask with before its last one, and a detokenizer cannot
swallow a response: the client would get an empty one. Such a call is computed to its end.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from conch.triton.answers import Call
from conch.triton.receipts import ReceiptBook

_log = logging.getLogger(__name__)
TICK_S = 0.1
# Asking Triton whether a call is cancelled is a round trip to its process, about as dear as sending a token: so many
# of them in a second at most.
POLLS_PER_S = 100
RECEIPT_EVERY_S = 0.5
# A call whose receipt is missing is given up after so many answered requests of the watch, a tick apart. One would do
# if Triton promised that what is sent first is queued first.
PROOFS = 2
_CLOSE_TIMEOUT_S = 5  # a request to a detokenizer that is gone may never be answered


class Watched(Protocol):
    """Who sends the responses, and ends calls: conch.triton.outbox."""

    def open_calls(self) -> list[Call]:
        """Calls that have not ended."""

    def give_up(self, call: Call) -> None:
        """End a call that its client has cancelled."""


class CancelWatch:
    """See the module.

    Args:
        watched: the outbox.
        book: receipts of its calls.
        prove: sends a request to the detokenizer and waits; whether it was answered.
    """

    def __init__(self, watched: Watched, book: ReceiptBook, prove: Callable[[], bool]) -> None:
        self._watched, self._book, self._prove = watched, book, prove
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancel-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._closed.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        parent = os.getppid()
        while not self._closed.wait(TICK_S):
            if os.getppid() != parent:  # Triton was killed: nobody is left to answer to
                os._exit(1)
            calls = self._watched.open_calls()
            self._follow([c for c in calls if c.receipt is not None])
            self._ask([c for c in calls if not c.via_ensemble])

    def _ask(self, calls: Iterable[Call]) -> None:
        for number, call in enumerate(calls, start=1):
            if is_cancelled(call):
                self._watched.give_up(call)
            if number % (POLLS_PER_S * TICK_S) == 0 and self._closed.wait(TICK_S):
                return

    def _follow(self, calls: Iterable[Call]) -> None:
        now = time.monotonic()
        overdue: list[Call] = []
        for call in calls:
            assert call.receipt is not None
            if call.asked_at is None:
                call.receipt_due = now >= call.next_receipt_at
            elif self._book.has(call.receipt):
                call.asked_at, call.proofs = None, 0
                call.next_receipt_at = now + RECEIPT_EVERY_S
            elif now - call.asked_at >= TICK_S:
                overdue.append(call)
        if not overdue or not self._proven():
            return
        for call in overdue:
            assert call.receipt is not None
            call.proofs = 0 if self._book.has(call.receipt) else call.proofs + 1
            if call.proofs == PROOFS:
                self._watched.give_up(call)

    def _proven(self) -> bool:
        try:
            return self._prove()
        except Exception:
            _log.exception("the detokenizer could not be asked")
            return False


def is_cancelled(call: Call) -> bool:
    """Ask Triton whether the client of a call that came straight to the engine has cancelled it."""
    try:
        with call.life:
            return not call.closed and call.sender.is_cancelled()
    except Exception:
        _log.exception("a request could not be asked whether it was cancelled")
        return False
