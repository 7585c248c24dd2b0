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
from conch.engines.base import Engine, EngineState, Tokens, TokenSink
from conch.errors import CancelledError, ConchError
from conch.metric_table import FAILED
from conch.triton import codec
from conch.triton.answers import Answer, Call, Row, chunk, whole
from conch.triton.cancel_watch import CancelWatch, Watched
from conch.triton.guard import as_conch_error
from conch.triton.monitor import Monitor
from conch.triton.receipts import ReceiptBook

_log = logging.getLogger(__name__)


class Outbox(TokenSink, Watched):
    """See the module. ``start`` must be called before anything is delivered.

    Args:
        max_responses_per_step: streams that send after one step of the engine, first and last tokens not counted.
        prove: of conch.triton.cancel_watch.
        monitor: is told what happens.
    """

    def __init__(self, max_responses_per_step: int, prove: Callable[[], bool], monitor: Monitor) -> None:
        self._monitor = monitor
        self._max_responses_per_step = max_responses_per_step
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._rows: dict[int, Row] = {}
        self._ready: list[tuple[Row, Answer]] = []  # to be sent now
        self._turns: deque[tuple[Row, Answer]] = deque()  # have tokens, and wait for their turn
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
        now = time.time_ns()
        for row in call.rows:
            row.arrival_ns = now
            self._monitor.arrived(row)
        with self._lock:
            call.via_ensemble = receipts
            if receipts and call.rows[0].params.stream:
                call.receipt = self._receipts.lend()
            for row in call.rows:
                self._rows[row.request_id] = row

    def stop(self, client_id: str) -> None:
        """End the calls that have a client's id; they get what is there, and the reason ``cancelled``."""
        with self._lock:
            rows = [r for r in self._rows.values() if r.call is not None and r.call.client_id == client_id]
        for row in rows:
            self._cancel(row.request_id)
            with self._lock:
                for answer in row.answers:
                    if answer.finish_reason is None:
                        answer.finish_reason = "cancelled"
                        self._queue(row, answer, self._ready)
                self._wake.notify()

    # --- TokenSink, on the engine's thread ---------------------------------------------------------------------------

    def scheduled(self, request_id: int) -> None:
        row = self._rows.get(request_id)
        if row is not None:
            row.scheduled_ns = time.time_ns()

    def tokens(self, event: Tokens) -> None:
        row = self._rows.get(event.request_id)
        if row is None:
            return
        if event.ids:
            now = time.time_ns()
            gap_ns = now - row.last_token_ns if row.last_token_ns else 0
            row.first_token_ns = row.first_token_ns or now
            row.last_token_ns = now
            row.output_tokens += len(event.ids)
            self._monitor.tokens(row, event, gap_ns)
        answer = row.answers[event.sequence]
        with self._lock:
            if answer.finish_reason is not None:  # stopped meanwhile
                return
            answer.fresh.extend(event.ids)
            answer.fresh_log_probs.extend(event.log_probs)
            answer.finish_reason = event.finish_reason
            if event.finish_reason or (row.params.stream and not answer.begun):
                answer.begun = True
                self._queue(row, answer, self._ready)
            elif not answer.queued and (row.params.stream or answer.matcher):
                self._queue(row, answer, self._turns)

    def failed(self, request_id: int, error: ConchError) -> None:
        with self._lock:
            row = self._rows.get(request_id)
            answer = None if row is None else row.open_answer
            if row is not None and answer is not None:
                answer.error = error
                self._queue(row, answer, self._ready)
                self._wake.notify()

    def step_done(self) -> None:
        self._monitor.step_done()
        with self._lock:
            for _ in range(min(self._max_responses_per_step, len(self._turns))):
                self._ready.append(self._turns.popleft())
            if self._ready:
                self._wake.notify()

    def state(self, state: EngineState) -> None:
        self._monitor.state(state)

    @staticmethod
    def _queue(row: Row, answer: Answer, line: list[tuple[Row, Answer]] | deque[tuple[Row, Answer]]) -> None:
        """Let an answer wait in ``line``. It may stand in both lines; whichever comes first empties it."""
        answer.queued = True
        line.append((row, answer))

    # --- on the outbox's own threads ---------------------------------------------------------------------------------

    def _send_all(self) -> None:
        while True:
            with self._lock:
                while not self._ready:
                    if self._closed:
                        return
                    self._wake.wait()
                ready, self._ready = self._ready, []
            for row, answer in ready:
                with self._lock:
                    if not answer.queued:
                        continue
                    fresh, answer.fresh = answer.fresh, []
                    answer.held_log_probs += answer.fresh_log_probs
                    answer.fresh_log_probs = []
                    reason, error = answer.finish_reason, answer.error
                    answer.queued = False
                try:
                    self._deliver(row, answer, fresh, reason, error)
                except Exception as unexpected:
                    self._fail(row, as_conch_error(unexpected))

    def _deliver(
        self, row: Row, answer: Answer, fresh: list[int], reason: str | None, error: ConchError | None
    ) -> None:
        call = row.call
        assert call is not None
        if call.closed or answer.ended:
            return
        if error is not None:
            self._fail(row, error)
            return
        answer.generated_tokens += len(fresh)
        self._release(row, answer, fresh, reason)
        if answer.ended:
            call.open_answers -= 1
            if row.open_answer is None:
                self._forget(row, answer.ended)
        last = call.open_answers == 0
        if row.params.stream:
            if answer.ids or answer.ended:
                self._send(call, chunk(row, answer), last)
        elif last:
            self._send(call, whole(call.rows), last)

    def _release(self, row: Row, answer: Answer, fresh: list[int], reason: str | None) -> None:
        """Move what may be sent from ``fresh`` to ``answer.ids``."""
        matcher = answer.matcher
        if matcher is None:
            self._put(answer, fresh)
            answer.ended = reason
            return
        release = matcher.feed(fresh)
        self._put(answer, release.ids)
        if not release.stopped and reason is not None:
            release = matcher.flush()
            self._put(answer, release.ids)
        answer.trim_chars = release.trim_chars
        if release.stopped and reason is None:
            self._cancel(row.request_id)
        answer.ended = "stop" if release.stopped else reason

    @staticmethod
    def _put(answer: Answer, ids: list[int]) -> None:
        """Tokens leave the matcher in the order in which they came, so their log probs do."""
        answer.ids += ids
        if answer.held_log_probs:
            log_probs, answer.held_log_probs = answer.held_log_probs[: len(ids)], answer.held_log_probs[len(ids) :]
            answer.log_probs += log_probs
            answer.cum_log_prob += sum(log_probs)

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
        try:
            with call.life:
                call.closed = True  # whatever comes of it: Triton takes nothing after a FINAL that failed
                call.sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            if call.receipt is not None:
                self._receipts.give_back(call.receipt)

    def _fail(self, row: Row, error: ConchError) -> None:
        """End the whole call: Triton has one error for all its rows."""
        call = row.call
        if call is None or call.closed:
            return
        for other in call.rows:
            if other.open_answer is not None:
                self._cancel(other.request_id)
            self._forget(other, "cancelled" if isinstance(error, CancelledError) else FAILED)
        try:
            self._send_last(call, codec.error_response(error))
        except Exception:
            _log.exception("an error could not be sent")

    def _cancel(self, request_id: int) -> None:
        assert self._engine is not None
        self._engine.cancel(request_id)

    def _forget(self, row: Row, reason: str) -> None:
        with self._lock:
            known = self._rows.pop(row.request_id, None)
        if known is not None:
            self._monitor.ended(row, reason)

    # --- Watched, on the watch's thread ------------------------------------------------------------------------------

    def open_calls(self) -> list[Call]:
        with self._lock:
            return list({id(r.call): r.call for r in self._rows.values() if r.call is not None}.values())

    def give_up(self, call: Call) -> None:
        row = next((r for r in call.rows if r.open_answer is not None), None)
        if row is not None:
            self.failed(row.request_id, CancelledError("the request was cancelled by its client"))
