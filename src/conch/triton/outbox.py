"""Tokens on their way from the engine to Triton.

The engine's thread drops tokens here and goes on with its next step; one thread of the outbox talks to Triton. Sending
a response is a round trip to another process. While one is under way, new tokens of the same stream gather and leave
together, so a stream never falls behind the engine.

A response costs about the same whether it carries one token or two, and on a CPU it costs what the engine would
compute with. So the responses of one step are limited: beyond the limit streams take turns, and send two tokens every
other step. A stream's first token and its last never wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import triton_python_backend_utils as pb_utils

from conch.contract import RECEIPT
from conch.engines.base import Engine, TokenSink
from conch.errors import CancelledError, ConchError
from conch.triton import codec
from conch.triton.answers import Answer, Call, chunk, whole
from conch.triton.cancel_watch import CancelWatch, Watched
from conch.triton.guard import as_conch_error
from conch.triton.receipts import ReceiptBook

_log = logging.getLogger(__name__)


class Outbox(TokenSink, Watched):
    """See the module. ``start`` must be called before anything is delivered.

    Args:
        max_responses_per_step: streams that send after one step of the engine, first and last tokens not counted.
        prove: of conch.triton.cancel_watch.
    """

    def __init__(self, max_responses_per_step: int, prove: Callable[[], bool]) -> None:
        self._max_responses_per_step = max_responses_per_step
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._answers: dict[int, Answer] = {}
        self._ready: list[Answer] = []  # to be sent now
        self._turns: deque[Answer] = deque()  # have tokens, and wait for their turn
        self._closed = False
        self._thread = threading.Thread(target=self._send_all, name="outbox", daemon=True)
        self._receipts = ReceiptBook()
        self._watch = CancelWatch(self, self._receipts, prove)
        self._engine: Engine | None = None

    def start(self, engine: Engine) -> None:
        """Begin to send; ``engine`` is told of requests that end early."""
        self._engine = engine
        self._thread.start()
        self._watch.start()

    def close(self) -> None:
        """Send what is there, then stop."""
        self._watch.close()
        with self._lock:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def register(self, call: Call, receipts: bool) -> None:
        """Expect tokens for the answers of a call.

        Args:
            call: the call.
            receipts: whether a detokenizer is there to write them. Only streams can ask for them.
        """
        with self._lock:
            call.via_ensemble = receipts
            if receipts and call.answers[0].params.stream:
                call.receipt = self._receipts.lend()
            for answer in call.answers:
                self._answers[answer.request_id] = answer

    # --- TokenSink, on the engine's thread ---------------------------------------------------------------------------

    def tokens(self, request_id: int, ids: list[int], finish_reason: str | None) -> None:
        with self._lock:
            answer = self._answers.get(request_id)
            if answer is None:
                return
            answer.fresh.extend(ids)
            answer.finish_reason = finish_reason
            if finish_reason or (answer.params.stream and not answer.begun):
                answer.begun = True
                self._queue(answer, self._ready)
            elif not answer.queued and (answer.params.stream or answer.matcher):
                self._queue(answer, self._turns)

    def failed(self, request_id: int, error: ConchError) -> None:
        with self._lock:
            answer = self._answers.get(request_id)
            if answer is not None:
                answer.error = error
                self._queue(answer, self._ready)

    def step_done(self) -> None:
        with self._lock:
            for _ in range(min(self._max_responses_per_step, len(self._turns))):
                self._ready.append(self._turns.popleft())
            if self._ready:
                self._wake.notify()

    @staticmethod
    def _queue(answer: Answer, line: list[Answer] | deque[Answer]) -> None:
        """Let an answer wait in ``line``. It may stand in both lines; whichever comes first empties it."""
        answer.queued = True
        line.append(answer)

    # --- on the outbox's own threads ---------------------------------------------------------------------------------

    def _send_all(self) -> None:
        while True:
            with self._lock:
                while not self._ready:
                    if self._closed:
                        return
                    self._wake.wait()
                ready, self._ready = self._ready, []
            for answer in ready:
                with self._lock:
                    if not answer.queued:
                        continue
                    fresh, answer.fresh = answer.fresh, []
                    reason, error = answer.finish_reason, answer.error
                    answer.queued = False
                try:
                    self._deliver(answer, fresh, reason, error)
                except Exception as unexpected:
                    self._fail(answer, as_conch_error(unexpected))

    def _deliver(self, answer: Answer, fresh: list[int], reason: str | None, error: ConchError | None) -> None:
        call = answer.call
        assert call is not None
        if call.closed or answer.ended:
            return
        if error is not None:
            self._fail(answer, error)
            return
        answer.generated_tokens += len(fresh)
        self._release(answer, fresh, reason)
        if answer.ended:
            call.open_rows -= 1
            self._forget(answer)
        last = call.open_rows == 0
        if answer.params.stream:
            if answer.ids or answer.ended:
                self._send(call, chunk(answer), last)
        elif last:
            self._send(call, whole(call.answers), last)

    def _release(self, answer: Answer, fresh: list[int], reason: str | None) -> None:
        """Move what may be sent from ``fresh`` to ``answer.ids``."""
        matcher = answer.matcher
        if matcher is None:
            answer.ids += fresh
            answer.ended = reason
            return
        release = matcher.feed(fresh)
        answer.ids += release.ids
        if not release.stopped and reason is not None:
            release = matcher.flush()
            answer.ids += release.ids
        answer.trim_chars = release.trim_chars
        if release.stopped and reason is None:
            self._cancel(answer.request_id)
        answer.ended = "stop" if release.stopped else reason

    def _send(self, call: Call, tensors: list[pb_utils.Tensor], last: bool) -> None:
        if last:
            self._send_last(call, pb_utils.InferenceResponse(tensors))
            return
        asks = call.receipt_due and call.receipt is not None
        if asks:
            assert call.receipt is not None
            tensors.append(codec.tensor(RECEIPT, self._receipts.ask(call.receipt), (1, *RECEIPT.dims)))
        call.sender.send(pb_utils.InferenceResponse(tensors))
        if asks:
            call.receipt_due, call.asked_at = False, time.monotonic()

    def _send_last(self, call: Call, response: pb_utils.InferenceResponse) -> None:
        with call.life:
            call.closed = True
            call.sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        if call.receipt is not None:
            self._receipts.give_back(call.receipt)

    def _fail(self, answer: Answer, error: ConchError) -> None:
        """End the whole call: Triton has one error for all its rows."""
        call = answer.call
        if call is None or call.closed:
            return
        for other in call.answers:
            if not other.ended:
                self._cancel(other.request_id)
            self._forget(other)
        try:
            self._send_last(call, codec.error_response(error))
        except Exception:
            _log.exception("an error could not be sent")

    def _cancel(self, request_id: int) -> None:
        assert self._engine is not None
        self._engine.cancel(request_id)

    def _forget(self, answer: Answer) -> None:
        with self._lock:
            self._answers.pop(answer.request_id, None)

    # --- Watched, on the watch's thread ------------------------------------------------------------------------------

    def open_calls(self) -> list[Call]:
        with self._lock:
            return list({id(a.call): a.call for a in self._answers.values() if a.call is not None}.values())

    def give_up(self, call: Call) -> None:
        answer = call.open_answer
        if answer is not None:
            self.failed(answer.request_id, CancelledError("the request was cancelled by its client"))
            self.step_done()
