"""What is known of an answer under way, and the tensors that its responses are made of."""

from __future__ import annotations

import threading
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
from conch.errors import ConchError
from conch.sampling import SamplingParams
from conch.text.detokenizer import ContextTracker
from conch.text.stop_words import StopMatcher
from conch.triton import codec
from conch.triton.receipts import Receipt


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
    """One request from Triton: its rows share a response sender.

    Attributes:
        via_ensemble: whether a detokenizer is there to write receipts.
        receipt: place for them.
        receipt_due: the next response shall ask for one.
        asked_at: when one was asked for that has not come yet (time.monotonic).
        next_receipt_at: not before.
        proofs: how often it was shown that a receipt should have come.
    """

    sender: pb_utils.ResponseSender
    answers: Sequence[Answer]
    via_ensemble: bool = False
    receipt: Receipt | None = None
    open_rows: int = 0
    closed: bool = False
    # Receipts. The watch sets receipt_due, the outbox's thread answers by setting asked_at.
    receipt_due: bool = True
    asked_at: float | None = None
    next_receipt_at: float = 0.0
    proofs: int = 0
    # Held while Triton is asked whether the request was cancelled, and while the last response is sent: the question
    # reads what the last response frees, and Triton 2.51 crashes if it comes too late.
    life: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.open_rows = len(self.answers)
        for row, answer in enumerate(self.answers):
            answer.call, answer.row = self, row

    @property
    def open_answer(self) -> Answer | None:
        """An answer that has not ended; None: all have."""
        return next((a for a in self.answers if not a.ended), None)


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
