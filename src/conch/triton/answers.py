"""What is known of a request under way, and the tensors that its responses are made of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import triton_python_backend_utils as pb_utils

from conch.contract import (
    BATCH_INDEX,
    CONTEXT_IDS,
    CUM_LOG_PROBS,
    FINISH_REASON,
    NUM_INPUT_TOKENS,
    NUM_OUTPUT_TOKENS,
    OUTPUT_IDS,
    OUTPUT_LOG_PROBS,
    PERF_TIMES,
    SEQUENCE_LENGTH,
    TOKEN_IDS,
    TRIM_CHARS,
    TensorSpec,
)
from conch.errors import ConchError
from conch.sampling import SamplingParams
from conch.text.detokenizer import ContextTracker
from conch.text.stop_words import StopMatcher
from conch.triton import codec
from conch.triton.receipts import Receipt


@dataclass(eq=False)
class Answer:
    """One answer to a row: what the engine produced and what was sent of it.

    Attributes:
        context: follows what was sent.
        matcher: None without stop words.
        cum_log_prob: of what was sent.
    """

    context: ContextTracker
    matcher: StopMatcher | None
    # Under the outbox's lock:
    begun: bool = False
    fresh: list[int] = field(default_factory=list)
    fresh_log_probs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    error: ConchError | None = None
    queued: bool = False
    # The outbox's thread alone:
    ids: list[int] = field(default_factory=list)  # to be sent; all of them if not streamed
    log_probs: list[float] = field(default_factory=list)  # of ids
    held_log_probs: list[float] = field(default_factory=list)  # of what the matcher holds back
    cum_log_prob: float = 0.0
    trim_chars: int = 0
    generated_tokens: int = 0  # since the last response
    ended: str | None = None


@dataclass(eq=False)
class Row:
    """One prompt of a request.

    Attributes:
        request_id: the engine's id.
        params: controls.
        input_tokens: length of the prompt.
        answers: one, or as many as the request wants.
        output_tokens: generated so far, all answers together.
        arrival_ns, scheduled_ns, first_token_ns, last_token_ns: since 1970; 0: not yet.
        prompt_ids: the prompt, where the log shall show it; else empty.
        repeated_ids: the prompt, where the answer shall begin with it; else empty.
    """

    request_id: int
    params: SamplingParams
    input_tokens: int
    answers: Sequence[Answer]
    call: Call | None = None
    index: int = 0
    output_tokens: int = 0
    arrival_ns: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    prompt_ids: Sequence[int] = ()
    repeated_ids: Sequence[int] = ()

    @property
    def open_answer(self) -> Answer | None:
        """An answer that has not ended; None: all have."""
        return next((a for a in self.answers if not a.ended), None)


@dataclass(eq=False)
class Call:
    """One request from Triton: its rows share a response sender.

    Attributes:
        client_id: the id that the client gave it; may be empty, may be another's too.
        via_ensemble: whether a detokenizer is there to write receipts.
        receipt: place for them.
        receipt_due: the next response shall ask for one.
        asked_at: when one was asked for that has not come yet (time.monotonic).
        next_receipt_at: not before.
        proofs: how often it was shown that a receipt should have come.
    """

    sender: pb_utils.ResponseSender
    rows: Sequence[Row]
    client_id: str = ""
    via_ensemble: bool = False
    receipt: Receipt | None = None
    open_answers: int = 0
    closed: bool = False
    # Receipts. The watch sets receipt_due, the outbox's thread answers by setting asked_at.
    receipt_due: bool = False  # not with the first tokens, which have enough to carry; the watch's next look sees to it
    asked_at: float | None = None
    next_receipt_at: float = 0.0
    proofs: int = 0
    # Held while Triton is asked whether the request was cancelled, and while the last response is sent: the question
    # reads what the last response frees, and Triton 2.51 crashes if it comes too late.
    life: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.open_answers = sum(len(row.answers) for row in self.rows)
        for index, row in enumerate(self.rows):
            row.call, row.index = self, index


def chunk(row: Row, answer: Answer) -> list[pb_utils.Tensor]:
    """Tensors of one streamed response; empties the answer."""
    params, ids, context = row.params, answer.ids, answer.context.context
    tensors = [codec.tensor(OUTPUT_IDS, ids, (1, 1, len(ids))), codec.tensor(SEQUENCE_LENGTH, len(ids), (1, 1))]
    if context:
        tensors.append(codec.tensor(CONTEXT_IDS, context, (1, len(context))))
    if answer.trim_chars:
        tensors.append(codec.tensor(TRIM_CHARS, answer.trim_chars, (1, 1)))
    if answer.ended:
        tensors.append(codec.tensor(FINISH_REASON, answer.ended.encode(), (1, 1)))
        if params.return_perf_metrics:
            tensors += _times([row])
    if params.return_num_input_tokens:
        tensors.append(codec.tensor(NUM_INPUT_TOKENS, row.input_tokens, (1, 1)))
    if params.return_num_output_tokens:
        tensors.append(codec.tensor(NUM_OUTPUT_TOKENS, answer.generated_tokens, (1, 1)))
    if params.return_log_probs:
        tensors.append(codec.tensor(OUTPUT_LOG_PROBS, answer.log_probs, (1, 1, len(ids))))
        tensors.append(codec.tensor(CUM_LOG_PROBS, answer.cum_log_prob, (1, 1)))
    if params.return_token_ids:
        tensors.append(codec.tensor(TOKEN_IDS, ids, (1, 1, len(ids))))
    if row.call is not None and len(row.call.rows) > 1:
        tensors.append(codec.tensor(BATCH_INDEX, row.index, (1, 1)))
    answer.context.advance(ids)
    answer.ids, answer.log_probs, answer.generated_tokens = [], [], 0
    return tensors


def whole(rows: Sequence[Row]) -> list[pb_utils.Tensor]:
    """Tensors of the one response of a request that is not streamed: (row, sequence, ...)."""
    answers = [answer for row in rows for answer in row.answers]
    dims = (len(rows), len(rows[0].answers))

    def padded(spec: TensorSpec, values: Sequence[Sequence[Any]], fill: Sequence[Any]) -> pb_utils.Tensor:
        longest = max(map(len, values))
        rectangle = [[*v, *[f] * (longest - len(v))] for v, f in zip(values, fill, strict=True)]
        return codec.tensor(spec, rectangle, (*dims, longest))

    pads = [row.params.pad_id for row in rows for _ in row.answers]
    ids = [[*row.repeated_ids, *answer.ids] for row in rows for answer in row.answers]
    tensors = [
        padded(OUTPUT_IDS, ids, pads),
        codec.tensor(SEQUENCE_LENGTH, list(map(len, ids)), dims),
        codec.tensor(FINISH_REASON, [(a.ended or "").encode() for a in answers], dims),
    ]
    if any(a.trim_chars for a in answers):
        tensors.append(codec.tensor(TRIM_CHARS, [a.trim_chars for a in answers], dims))
    if any(row.params.return_num_input_tokens for row in rows):
        tensors.append(codec.tensor(NUM_INPUT_TOKENS, [row.input_tokens for row in rows], (len(rows), 1)))
    if any(row.params.return_num_output_tokens for row in rows):
        tensors.append(codec.tensor(NUM_OUTPUT_TOKENS, [a.generated_tokens for a in answers], dims))
    if any(row.params.return_log_probs for row in rows):
        tensors.append(padded(OUTPUT_LOG_PROBS, [a.log_probs for a in answers], [0.0] * len(answers)))
        tensors.append(codec.tensor(CUM_LOG_PROBS, [a.cum_log_prob for a in answers], dims))
    if any(row.params.return_token_ids for row in rows):
        tensors.append(padded(TOKEN_IDS, [a.ids for a in answers], pads))
    if any(row.params.return_perf_metrics for row in rows):
        tensors += _times(rows)
    return tensors


def nothing(finish_reason: str) -> list[pb_utils.Tensor]:
    """Tensors of an answer without tokens."""
    return [
        codec.tensor(OUTPUT_IDS, [], (1, 1, 0)),
        codec.tensor(SEQUENCE_LENGTH, 0, (1, 1)),
        codec.tensor(FINISH_REASON, finish_reason.encode(), (1, 1)),
    ]


def _times(rows: Sequence[Row]) -> list[pb_utils.Tensor]:
    times = [(r.arrival_ns, r.scheduled_ns, r.first_token_ns, r.last_token_ns) for r in rows]
    by_kind = zip(PERF_TIMES, zip(*times, strict=True), strict=True)
    return [codec.tensor(spec, values, (len(rows), 1)) for spec, values in by_kind]
