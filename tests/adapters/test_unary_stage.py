"""The model that answers once: it asks the three stages as Triton would let it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from triton_side import Refused, Rows, Stages, make_request, read_response, write_small_release

from conch.contract import DETOKENIZER, ENGINE, TOKENIZER, UNARY, UNARY_IN_FLIGHT
from conch.triton.unary_stage import UnaryStage

TIMEOUT_S = 30
LONG = {"text_input": b"hello", "max_tokens": 200}
PACE = {"engine": {"echo_itl_ms": 50.0, "max_batch_size": 256}}


class Unary:
    """The stage with the other three behind it.

    Attributes:
        stage: it.
        repository: its release.
    """

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self._stages = Stages(repository)
        self.stage = UnaryStage(repository / UNARY.name / "1")
        pb_utils.served[TOKENIZER.name, 1] = lambda request: self._stages.tokenizer.execute([request])[0]
        pb_utils.served[ENGINE.name, 1] = self._engine
        pb_utils.served[DETOKENIZER.name, 1] = lambda request: self._stages.detokenizer.execute([request])[0]

    def _engine(self, request: pb_utils.InferenceRequest) -> list[pb_utils.InferenceResponse]:
        sender = pb_utils.ResponseSender()
        request._sender = sender
        self._stages.engine.execute([request])
        assert sender.done.wait(TIMEOUT_S)
        return sender.responses

    def send(self, request_id: str = "", parameters: Any = None, **values: Any) -> pb_utils.ResponseSender:
        sender = pb_utils.ResponseSender()
        request = make_request(UNARY, values, parameters, sender)
        request._request_id = request_id
        assert self.stage.execute([request]) == [None]
        return sender

    def ask(self, **values: Any) -> Any:
        return read(self.send(**values))

    def close(self) -> None:
        self.stage.close()
        self._stages.close()
        pb_utils.served.clear()


def read(sender: pb_utils.ResponseSender) -> Any:
    """The one response."""
    assert sender.done.wait(TIMEOUT_S), "no answer"
    (response,) = sender.responses
    return read_response(UNARY, response)


@pytest.fixture
def make_unary(tmp_path: Path) -> Iterator[Callable[..., Unary]]:
    made: list[Unary] = []

    def make(**sections: Any) -> Unary:
        made.append(Unary(write_small_release(tmp_path / f"repository-{len(made)}", **sections)))
        return made[-1]

    yield make
    for unary in made:
        unary.close()


@pytest.fixture
def unary(make_unary: Callable[..., Unary]) -> Unary:
    return make_unary(**PACE)


def test_one_whole_answer(unary: Unary) -> None:
    output = unary.ask(text_input=b"abc", max_tokens=5, return_num_output_tokens=True, stop_words=b"")
    assert output["text_output"].tolist() == [b"abcab"]
    assert output["finish_reason"].tolist() == [[b"length"]]
    assert output["num_output_tokens"].tolist() == [[5]]


def test_text_is_the_first_output(unary: Unary) -> None:
    sender = unary.send(text_input=b"abc", max_tokens=5, return_num_input_tokens=True)
    read(sender)
    assert next(t.name() for t in sender.responses[0].output_tensors()) == "text_output"


def test_rows(unary: Unary) -> None:
    output = unary.ask(text_input=Rows([b"ab", "ü".encode()]), max_tokens=Rows([3, 4]))
    assert output["text_output"].tolist() == [b"aba", "üü".encode()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_input": b""}, "text_input must not be empty"),
        ({}, "exactly one of text_input and messages must be given, got neither"),
        ({"text_input": b"a", "max_tokens": 0}, "max_tokens must be a finite number >= 1, got 0"),
        ({"text_input": b"a", "stream": True}, "stream must be false: unary answers once; ensemble is for streams"),
        ({"text_input": b"a", "parameters": {"max_token": 3}}, "unknown field max_token; did you mean max_tokens?"),
    ],
)
def test_errors_keep_their_code_and_words(unary: Unary, values: dict[str, Any], message: str) -> None:
    long = unary.send(text_input=b"abc", max_tokens=20)
    assert unary.ask(**values) == Refused("INVALID_ARGUMENT", message)
    assert not long.done.is_set()
    assert len(read(long)["text_output"][0]) == 20


def test_a_stage_that_is_gone_is_an_error_and_no_traceback(unary: Unary) -> None:
    del pb_utils.served[DETOKENIZER.name, 1]
    refused = unary.ask(text_input=b"abc", max_tokens=2)
    assert refused == Refused("INTERNAL", "model ('detokenizer', 1) is not ready")


def test_many_are_under_way_at_a_time(unary: Unary) -> None:
    senders = [unary.send(**LONG) for _ in range(UNARY_IN_FLIGHT - 1)]
    assert unary.ask(text_input=b"abc", max_tokens=3)["text_output"].tolist() == [b"abc"]
    for sender in senders:
        assert not sender.done.is_set()
        sender.cancelled.set()
    for sender in senders:
        assert read(sender)["finish_reason"].tolist() == [[b"cancelled"]]


def test_a_client_that_is_gone_ends_its_own_request_alone(unary: Unary) -> None:
    leaver, other = (unary.send("same", **LONG) for _ in range(2))
    leaver.cancelled.set()
    assert read(leaver)["finish_reason"].tolist() == [[b"cancelled"]]
    assert not other.done.wait(0.5)
    other.cancelled.set()
    read(other)


def test_stop_ends_what_has_its_request_id(unary: Unary) -> None:
    mine, other = unary.send("a", **LONG), unary.send("b", **LONG)
    read(unary.send("a", text_input=b"x", stop=True))
    assert read(mine)["finish_reason"].tolist() == [[b"cancelled"]]
    assert not other.done.is_set()
    read(unary.send("b", text_input=b"x", stop=True))
    read(other)
    refused = read(unary.send("", text_input=b"x", stop=True))
    assert refused == Refused("INVALID_ARGUMENT", "stop needs the request id of the request that shall end")


class Held:
    """An engine that answers nobody before it is let go."""

    def __init__(self, unary: Unary) -> None:
        self.go = threading.Event()
        self.limits: list[int] = []
        self._engine = pb_utils.served[ENGINE.name, 1]
        pb_utils.served[ENGINE.name, 1] = self._wait
        unary_requests = [unary.send(text_input=b"a", max_tokens=1) for _ in range(UNARY_IN_FLIGHT)]
        self.senders = unary_requests

    def _wait(self, request: pb_utils.InferenceRequest) -> Any:
        self.go.wait(TIMEOUT_S)
        limit = pb_utils.get_input_tensor_by_name(request, "timeout_ms")
        self.limits += [] if limit is None else [int(limit.as_numpy()[0, 0])]
        return self._engine(request)


def test_a_long_line_is_refused(make_unary: Callable[..., Unary]) -> None:
    unary = make_unary(serving={"max_queue_size": 3}, **PACE)
    held = Held(unary)
    waiting = [unary.send(text_input=b"b", max_tokens=1) for _ in range(3)]
    refused = unary.ask(text_input=b"c")
    assert refused == Refused("UNAVAILABLE", "maximum queue size of 3 reached. Try again in 1 s")
    held.go.set()
    assert [read(s)["text_output"].tolist() for s in (*held.senders, *waiting)] == (
        [[b"a"]] * UNARY_IN_FLIGHT + [[b"b"]] * 3
    )


def test_the_wait_counts_for_timeout_ms_and_can_be_given_up(unary: Unary) -> None:
    held = Held(unary)
    late, early, gone = (
        unary.send(text_input=b"b", max_tokens=1, timeout_ms=timeout_ms) for timeout_ms in (100, 60_000, 60_000)
    )
    gone.cancelled.set()
    assert read(late) == Refused("DEADLINE_EXCEEDED", "timeout_ms of 100 has passed")
    assert read(gone) == Refused("CANCELLED", "the request was cancelled before its turn came")
    time.sleep(0.1)
    held.go.set()
    assert read(early)["text_output"].tolist() == [b"b"]
    assert len(held.limits) == 1
    assert 0 < held.limits[0] <= 59_900


def test_the_lowest_priority_goes_first(unary: Unary) -> None:
    held = Held(unary)
    turns: list[int] = []
    for priority in (3, 1, 2):
        unary.send(text_input=b"b", max_tokens=1, priority=priority)
    unary.stage._line.engine.submit = lambda request: turns.append(request.params.priority)  # type: ignore[method-assign]
    for number in range(1, 4):
        unary.stage._line.cancel(number)  # which frees a place
    assert turns == [1, 2, 3]
    held.go.set()


def test_who_waits_too_long_is_refused(make_unary: Callable[..., Unary]) -> None:
    unary = make_unary(serving={"queue_timeout_ms": 100}, **PACE)
    held = Held(unary)
    refused = unary.ask(text_input=b"b", max_tokens=1)
    assert refused == Refused("UNAVAILABLE", "no place within the queue timeout of 100 ms")
    held.go.set()


def test_inputs_are_its_own_copies(unary: Unary) -> None:
    held = Held(unary)
    ids = np.array([[3]], np.int32)
    sender = unary.send(text_input=b"b", max_tokens=ids)
    ids[:] = 7  # Triton may use the memory for something else
    held.go.set()
    assert read(sender)["text_output"].tolist() == [b"bbb"]
