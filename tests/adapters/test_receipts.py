"""Receipts of the detokenizer: how the engine notices that an ensemble's client has gone, and when it must not."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from triton_side import Refused, Rows, Stages, make_request

from conch.contract import DETOKENIZER, ENGINE, RECEIPT
from conch.triton import cancel_watch
from conch.triton.receipts import Receipt, ReceiptBook, ReceiptWriter

GIVEN_UP = Refused("CANCELLED", "the request was cancelled by its client")


class Ensemble:
    """Hands every response of the engine on to the detokenizer, in order, on a thread of its own.

    Attributes:
        dropped: what is sent from now on is thrown away, as Triton does after a cancel.
        pause_s: the detokenizer's time for each request.
    """

    def __init__(self, stages: Stages, pause_s: float = 0.0) -> None:
        self.dropped = threading.Event()
        self.pause_s = pause_s
        self.asked = 0
        self._stages = stages
        self._queue: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()
        pb_utils.served[DETOKENIZER.name, 1] = self._ask

    def generate(self, **controls: Any) -> list[Any]:
        sender = pb_utils.ResponseSender()
        sender.on_send = self._take
        values = {"input_ids": np.array([[5, 6, 7]], np.int32), "input_lengths": 3, "send_receipts": True, **controls}
        self._stages.engine.execute([make_request(ENGINE, values, sender=sender)])
        return self._stages.collect(sender)

    def _take(self, sender: pb_utils.ResponseSender) -> None:
        response = sender.responses[-1]
        if response.has_error():
            return
        outputs = {t.name(): t.as_numpy() for t in response.output_tensors()}
        self.asked += RECEIPT.name in outputs
        if not self.dropped.is_set():
            inputs = {t.name for t in DETOKENIZER.inputs}
            request = make_request(DETOKENIZER, {n: array for n, array in outputs.items() if n in inputs})
            self._queue.put((request, None))

    def _ask(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        answers: queue.Queue[Any] = queue.Queue()
        self._queue.put((request, answers))
        return answers.get()

    def _run(self) -> None:
        while True:
            request, answers = self._queue.get()
            time.sleep(self.pause_s)
            (response,) = self._stages.detokenizer.execute([request])
            if answers is not None:
                answers.put(response)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cancel_watch, "TICK_S", 0.01)
    monkeypatch.setattr(cancel_watch, "RECEIPT_EVERY_S", 0.02)
    yield
    pb_utils.served.clear()


@pytest.fixture
def slow(make_stages: Callable[..., Stages]) -> Stages:
    """An engine that takes two milliseconds for a token."""
    return make_stages(engine={"echo_itl_ms": 2})


def test_a_stream_that_arrives_is_left_alone(slow: Stages) -> None:
    ensemble = Ensemble(slow)
    outputs = ensemble.generate(streaming=True, request_output_len=200)
    assert outputs[-1]["finish_reason"].tolist() == [[b"length"]]
    assert 2 < ensemble.asked < 50


def test_a_stream_that_nobody_reads_is_given_up(slow: Stages) -> None:
    ensemble = Ensemble(slow)
    threading.Timer(0.1, ensemble.dropped.set).start()
    outputs = ensemble.generate(streaming=True, request_output_len=250)
    assert outputs[-1] == GIVEN_UP
    assert len(outputs) > 20, "not before it was dropped"


def test_a_stream_that_was_given_up_before_its_first_token(slow: Stages) -> None:
    ensemble = Ensemble(slow)
    ensemble.dropped.set()
    assert ensemble.generate(streaming=True, request_output_len=250)[-1] == GIVEN_UP


def test_rows_of_one_request_end_together(slow: Stages) -> None:
    ensemble = Ensemble(slow)
    threading.Timer(0.1, ensemble.dropped.set).start()
    rows = {
        "input_ids": np.array([[5, 6], [7, 8]], np.int32), "input_lengths": Rows([2, 2]),
        "send_receipts": Rows([True, True]), "streaming": Rows([True, True]), "request_output_len": Rows([2, 250]),
    }  # fmt: skip
    assert ensemble.generate(**rows)[-1] == GIVEN_UP


def test_a_slow_detokenizer_is_waited_for(slow: Stages) -> None:
    """Receipts come late, but so does the answer to the watch, which stands in the same line."""
    ensemble = Ensemble(slow, pause_s=0.05)
    outputs = ensemble.generate(streaming=True, request_output_len=100)
    assert outputs[-1]["finish_reason"].tolist() == [[b"length"]]
    assert ensemble.asked > 0


def test_without_a_detokenizer_nothing_is_given_up(slow: Stages) -> None:
    ensemble = Ensemble(slow)
    ensemble.dropped.set()
    pb_utils.served.clear()
    assert ensemble.generate(streaming=True, request_output_len=100)[-1]["finish_reason"].tolist() == [[b"length"]]


@pytest.mark.parametrize("controls", [{"streaming": False}, {"streaming": True, "send_receipts": False}])
def test_nobody_else_is_asked_for_receipts(slow: Stages, controls: dict[str, Any]) -> None:
    ensemble = Ensemble(slow)
    outputs = ensemble.generate(request_output_len=100, **controls)
    assert outputs[-1]["finish_reason"].tolist() == [[b"length"]]
    assert ensemble.asked == 0


def test_streams_beyond_the_places_for_receipts_run_on_without(slow: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReceiptBook, "lend", lambda self: None)
    ensemble = Ensemble(slow)
    outputs = ensemble.generate(streaming=True, request_output_len=50)
    assert (outputs[-1]["finish_reason"].tolist(), ensemble.asked) == ([[b"length"]], 0)


def test_a_place_that_was_given_back_forgets_nothing() -> None:
    """A late receipt of the place's last user is none of the next one's."""
    book, writer = ReceiptBook(), ReceiptWriter()
    first = book.lend()
    assert first is not None
    late = book.ask(first)
    book.give_back(first)
    second = book.lend()
    assert second is not None
    assert second.slot == first.slot
    asked = book.ask(second)
    writer.write(late)
    assert not book.has(second)
    writer.write(asked)
    assert book.has(second)


def test_what_no_engine_asked_for_is_not_written() -> None:
    book, writer = ReceiptBook(), ReceiptWriter()
    receipt = Receipt(1)
    pid, fd, nonce, slot, serial = book.ask(receipt)
    with Path(os.devnull).open("rb") as other:
        for asked in (
            [pid, fd, nonce + 1, slot, serial], [pid, other.fileno(), nonce, slot, serial],
            [pid, 10**6, nonce, slot, serial], [2**40, fd, nonce, slot, serial], [-1, -1, -1, -1, -1],
            [pid, fd, nonce, 0, serial], [pid, fd, nonce, -1, serial], [pid, fd, nonce, 10**9, serial],
        ):  # fmt: skip
            writer.write(asked)
    assert not book.has(receipt)
    assert book._words[0] == nonce
    writer.write([pid, fd, nonce, slot, serial])
    assert book.has(receipt)
