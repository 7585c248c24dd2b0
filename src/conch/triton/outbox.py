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
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import triton_python_backend_utils as pb_utils

from conch.contract import (
    BATCH_INDEX,
    CONTEXT_IDS,
    FINISH_REASON,
    NUM_INPUT_TOKENS,
    NUM_OUTPUT_TOKENS,
    OUTPUT_IDS,
    SEQUENCE_LENGTH,
    TRIM_CHARS,
)
from conch.engines.base import Engine, TokenSink
from conch.errors import CancelledError, ConchError
from conch.sampling import SamplingParams
from conch.text.detokenizer import ContextTracker
from conch.text.stop_words import StopMatcher
from conch.triton import codec
from conch.triton.guard import as_conch_error

_log = logging.getLogger(__name__)
# Live requests take turns in being asked whether their client gave them up. The question is a round trip to Triton's
# process, about as dear as sending a token: so many of them in a second, and each request once in this time at most.
CANCEL_POLLS_PER_S = 100
CANCEL_POLL_S = 0.1


@dataclass(eq=False)
class Answer:
    """One row of a request: what the engine produced and what was sent of it.

    Attributes:
        request_id: the engine's id.
        params: controls.
        input_tokens: length of the prompt.
        context: follows what was sent.
        matcher: None without stop words.
    """

    request_id: int
    params: SamplingParams
    input_tokens: int
    context: ContextTracker
    matcher: StopMatcher | None
    call: Call | None = None
    row: int = 0
    # Under the outbox's lock:
    begun: bool = False
    fresh: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    error: ConchError | None = None
    queued: bool = False
    # The outbox's thread alone:
    ids: list[int] = field(default_factory=list)  # to be sent; all of them if not streamed
    trim_chars: int = 0
    generated_tokens: int = 0  # since the last response
    ended: str | None = None


@dataclass(eq=False)
class Call:
    """One request from Triton: its rows share a response sender."""

    sender: pb_utils.ResponseSender
    answers: Sequence[Answer]
    open_rows: int = 0
    closed: bool = False
    # Held while Triton is asked whether the request was cancelled, and while the last response is sent: the question
    # reads what the last response frees, and Triton 2.51 crashes if it comes too late.
    life: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.open_rows = len(self.answers)
        for row, answer in enumerate(self.answers):
            answer.call, answer.row = self, row


class Outbox(TokenSink):
    """See the module. ``start`` must be called before anything is delivered.

    Args:
        max_responses_per_step: streams that send after one step of the engine, first and last tokens not counted.
    """

    def __init__(self, max_responses_per_step: int) -> None:
        self._max_responses_per_step = max_responses_per_step
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._answers: dict[int, Answer] = {}
        self._ready: list[Answer] = []  # to be sent now
        self._turns: deque[Answer] = deque()  # have tokens, and wait for their turn
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_all, name="outbox", daemon=True),
            threading.Thread(target=self._watch_cancels, name="cancel-watch", daemon=True),
        ]
        self._engine: Engine | None = None

    def start(self, engine: Engine) -> None:
        """Begin to send; ``engine`` is told of requests that end early."""
        self._engine = engine
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Send what is there, then stop."""
        self._closed.set()
        with self._lock:
            self._wake.notify()
        for thread in self._threads:
            thread.join()

    def register(self, call: Call) -> None:
        """Expect tokens for the answers of a call."""
        with self._lock:
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
                    if self._closed.is_set():
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
        response = pb_utils.InferenceResponse(tensors)
        if last:
            self._send_last(call, response)
        else:
            call.sender.send(response)

    def _send_last(self, call: Call, response: pb_utils.InferenceResponse) -> None:
        with call.life:
            call.closed = True
            call.sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

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

    def _watch_cancels(self) -> None:
        parent = os.getppid()
        while not self._closed.wait(CANCEL_POLL_S):
            if os.getppid() != parent:  # Triton was killed: nobody is left to answer to
                os._exit(1)
            with self._lock:
                calls = {id(a.call): a for a in self._answers.values()}
            for number, answer in enumerate(calls.values(), start=1):
                if self._is_cancelled(answer):
                    self.failed(answer.request_id, CancelledError("the request was cancelled by its client"))
                    self.step_done()
                if number % (CANCEL_POLLS_PER_S * CANCEL_POLL_S) == 0 and self._closed.wait(CANCEL_POLL_S):
                    return

    def _is_cancelled(self, answer: Answer) -> bool:
        call = answer.call
        assert call is not None
        try:
            with call.life:
                return not call.closed and call.sender.is_cancelled()
        except Exception:
            _log.exception("a request could not be asked whether it was cancelled")
            return False


def chunk(answer: Answer) -> list[pb_utils.Tensor]:
    """Tensors of one streamed response; empties the answer."""
    ids, context = answer.ids, answer.context.context
    tensors = [codec.tensor(OUTPUT_IDS, ids, (1, 1, len(ids))), codec.tensor(SEQUENCE_LENGTH, len(ids), (1, 1))]
    if context:
        tensors.append(codec.tensor(CONTEXT_IDS, context, (1, len(context))))
    if answer.trim_chars:
        tensors.append(codec.tensor(TRIM_CHARS, answer.trim_chars, (1, 1)))
    if answer.ended:
        tensors.append(codec.tensor(FINISH_REASON, answer.ended.encode(), (1, 1)))
    if answer.params.return_num_input_tokens:
        tensors.append(codec.tensor(NUM_INPUT_TOKENS, answer.input_tokens, (1, 1)))
    if answer.params.return_num_output_tokens:
        tensors.append(codec.tensor(NUM_OUTPUT_TOKENS, answer.generated_tokens, (1, 1)))
    if answer.call is not None and len(answer.call.answers) > 1:
        tensors.append(codec.tensor(BATCH_INDEX, answer.row, (1, 1)))
    answer.context.advance(ids)
    answer.ids, answer.generated_tokens = [], 0
    return tensors


def whole(answers: Sequence[Answer]) -> list[pb_utils.Tensor]:
    """Tensors of the one response of a request that is not streamed: a row for each answer."""
    rows = len(answers)
    lengths = [len(a.ids) for a in answers]
    longest = max(lengths)
    ids = [a.ids + [a.params.pad_id] * (longest - len(a.ids)) for a in answers]
    tensors = [
        codec.tensor(OUTPUT_IDS, ids, (rows, 1, longest)),
        codec.tensor(SEQUENCE_LENGTH, lengths, (rows, 1)),
        codec.tensor(FINISH_REASON, [(a.ended or "").encode() for a in answers], (rows, 1)),
    ]
    if any(a.trim_chars for a in answers):
        tensors.append(codec.tensor(TRIM_CHARS, [a.trim_chars for a in answers], (rows, 1)))
    if any(a.params.return_num_input_tokens for a in answers):
        tensors.append(codec.tensor(NUM_INPUT_TOKENS, [a.input_tokens for a in answers], (rows, 1)))
    if any(a.params.return_num_output_tokens for a in answers):
        tensors.append(codec.tensor(NUM_OUTPUT_TOKENS, [a.generated_tokens for a in answers], (rows, 1)))
    return tensors


