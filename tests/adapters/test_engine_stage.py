"""The engine behind Triton's decoupled API, with the engine that plays prompts back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from small_tokenizers import END, MAX_POSITION_EMBEDDINGS, small_tokenizer
from triton_side import TIMEOUT_S, Refused, Rows, Stages, make_request

from conch.contract import ENGINE
from conch.engines.base import GenerationRequest
from conch.engines.queue import Load
from conch.errors import UnavailableError
from conch.triton import cancel_watch, engine_stage

VOCAB_SIZE = small_tokenizer("single_bytes").get_vocab_size()


def prompt(ids: list[int], **controls: Any) -> dict[str, Any]:
    """A request of one row, under the engine's names."""
    return {"input_ids": np.array([ids], dtype=np.int32), "input_lengths": len(ids), **controls}


def tokens(output: Any, row: int = 0) -> list[int]:
    """Token ids of a row, without what fills it up."""
    ids: list[int] = output["output_ids"][row, 0, : output["sequence_length"][row, 0]].tolist()
    return ids


def test_a_whole_answer_is_one_response(stages: Stages) -> None:
    (output,) = stages.generate(prompt([5, 6, 7], request_output_len=5))
    assert tokens(output) == [5, 6, 7, 5, 6]
    assert output["finish_reason"].tolist() == [[b"length"]]
    assert set(output) == {"output_ids", "sequence_length", "finish_reason"}


def test_an_end_id_ends_the_answer(stages: Stages) -> None:
    (output,) = stages.generate(prompt([5, END, 7], request_output_len=9))
    assert output["finish_reason"].tolist() == [[b"stop"]]
    assert tokens(output) == [5, END]
    (output,) = stages.generate(prompt([5, END, 7], request_output_len=4, end_id=-1))
    assert (tokens(output), output["finish_reason"][0, 0]) == ([5, END, 7, 5], b"length")
    (output,) = stages.generate(prompt([5, END, 7], request_output_len=9, min_tokens=3))
    assert tokens(output) == [5, END, 7, 5, END]


def test_a_streamed_answer_is_the_whole_in_pieces(stages: Stages) -> None:
    ids = list(range(3, 40))
    outputs = stages.generate(
        prompt(ids, request_output_len=50, streaming=True, return_num_input_tokens=True, return_num_output_tokens=True)
    )
    assert [i for output in outputs for i in tokens(output)] == [*ids, *ids[:13]]
    assert all(tokens(output) for output in outputs)
    assert ["finish_reason" in output for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert outputs[-1]["finish_reason"].tolist() == [[b"length"]]
    assert all(output["num_input_tokens"].tolist() == [[37]] for output in outputs)
    assert sum(output["num_output_tokens"][0, 0] for output in outputs) == 50


def test_counts_are_sent_only_where_they_are_asked_for(stages: Stages) -> None:
    (output,) = stages.generate(prompt([5], request_output_len=3, return_num_output_tokens=True))
    assert output["num_output_tokens"].tolist() == [[3]]
    assert "num_input_tokens" not in output
    for output in stages.generate(prompt([5], request_output_len=3, streaming=True)):
        assert not {"num_input_tokens", "num_output_tokens", "batch_index"} & set(output)


def test_rows_of_one_response(stages: Stages) -> None:
    values = {
        "input_ids": np.array([[5, 6, 7], [8, END, END]], dtype=np.int32), "input_lengths": Rows([3, 1]),
        "request_output_len": Rows([4, 2]), "return_num_input_tokens": Rows([True, True]),
        "return_num_output_tokens": Rows([True, True]), "pad_id": Rows([9, 9]),
    }  # fmt: skip
    (output,) = stages.generate(values)
    assert output["output_ids"].tolist() == [[[5, 6, 7, 5]], [[8, 8, 9, 9]]]
    assert output["sequence_length"].tolist() == [[4], [2]]
    assert output["finish_reason"].tolist() == [[b"length"], [b"length"]]
    assert output["num_input_tokens"].tolist() == [[3], [1]]
    assert output["num_output_tokens"].tolist() == [[4], [2]]


def test_a_count_that_only_one_row_asks_for_is_not_lost(stages: Stages) -> None:
    values = {
        "input_ids": np.array([[5], [6]], dtype=np.int32), "input_lengths": Rows([1, 1]),
        "request_output_len": Rows([2, 3]), "return_num_output_tokens": Rows([False, True]),
    }  # fmt: skip
    (output,) = stages.generate(values)
    assert output["num_output_tokens"].tolist() == [[2], [3]]


def test_rows_of_a_stream_carry_their_index(stages: Stages) -> None:
    values = {
        "input_ids": np.array([[5, 6, 7], [8, END, END]], dtype=np.int32), "input_lengths": Rows([3, 1]),
        "request_output_len": Rows([20, 7]), "streaming": Rows([True, True]),
    }  # fmt: skip
    outputs = stages.generate(values)
    rows: list[list[int]] = [[], []]
    reasons: list[list[bytes]] = [[], []]
    for output in outputs:
        row = output["batch_index"][0, 0]
        assert not reasons[row], "a response after a row's last one"
        rows[row] += tokens(output)
        reasons[row] += [reason for (reason,) in output.get("finish_reason", [])]
    assert rows == [([5, 6, 7] * 7)[:20], [8] * 7]
    assert reasons == [[b"length"], [b"length"]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_lengths": 0}, "input_lengths must be in [1, 3], got 0"),
        ({"input_lengths": 4}, "input_lengths must be in [1, 3], got 4"),
        ({"input_lengths": -1}, "input_lengths must be in [1, 3], got -1"),
        ({"input_ids": np.array([[5, -1, 7]], np.int32)}, f"input_ids must be in [0, {VOCAB_SIZE}), got -1"),
        ({"input_ids": np.array([[5, VOCAB_SIZE, 7]], np.int32)}, f"input_ids must be in [0, 259), got {VOCAB_SIZE}"),
        (
            {"input_ids": np.full((1, 300), 5, np.int32), "input_lengths": 300},
            f"input_ids must have at most {MAX_POSITION_EMBEDDINGS - 1} tokens, got 300",
        ),
        ({"input_ids": np.zeros((1, 0), np.int32), "input_lengths": 0}, "input_lengths must be in [1, 0], got 0"),
        ({"runtime_top_p": 1.5}, "top_p must be in [0, 1], got 1.5"),
        ({"temperature": float("nan")}, "temperature must be in [0, 100], got nan"),
        ({"request_output_len": 300}, "max_tokens must be at most 253 (context of 256 tokens less 3 of the prompt)"),
        ({"stop_words": np.array([[b"\xff"]], np.object_)}, "stop_words must be valid UTF-8"),
    ],
)
def test_a_direct_call_that_cannot_be_is_refused(stages: Stages, values: dict[str, Any], message: str) -> None:
    outputs = stages.generate({**prompt([5, 6, 7]), **values})
    assert [output.code for output in outputs] == ["INVALID_ARGUMENT"]
    assert outputs[0].message.startswith(message)


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("temprature", "; did you mean temperature?"),
        ("max_tokens", "; did you mean request_output_len?"),
        ("max_new_tokens", "; did you mean request_output_len?"),
        ("text_input", ""),
        ("nonsense", ""),
    ],
)
def test_an_unknown_field_of_a_direct_call_is_refused(stages: Stages, field: str, hint: str) -> None:
    sender = pb_utils.ResponseSender()
    stages.engine.execute([make_request(ENGINE, prompt([5]), {field: 1, "timeout": 9, "id": "a"}, sender)])
    assert stages.collect(sender) == [Refused("INVALID_ARGUMENT", f"unknown field {field}{hint}")]


def test_what_triton_s_clients_add_is_no_unknown_field(stages: Stages) -> None:
    sender = pb_utils.ResponseSender()
    stages.engine.execute([make_request(ENGINE, prompt([5], request_output_len=1), {"timeout": 9}, sender)])
    assert tokens(stages.collect(sender)[0]) == [5]


def test_ids_beyond_the_length_are_not_looked_at(stages: Stages) -> None:
    ids = np.array([[5, 6, -1, 1 << 30]], np.int32)
    (output,) = stages.generate({"input_ids": ids, "input_lengths": 2, "request_output_len": 3})
    assert tokens(output) == [5, 6, 5]


def test_a_bad_row_is_named_and_ends_the_request(stages: Stages) -> None:
    ids = np.array([[5], [999]], np.int32)
    outputs = stages.generate({"input_ids": ids, "input_lengths": Rows([1, 1])})
    assert outputs == [Refused("INVALID_ARGUMENT", "row 1: input_ids must be in [0, 259), got 999")]


def test_rows_must_agree_on_streaming(stages: Stages) -> None:
    ids = np.array([[5], [6]], np.int32)
    outputs = stages.generate({"input_ids": ids, "input_lengths": Rows([1, 1]), "streaming": Rows([True, False])})
    assert outputs == [Refused("INVALID_ARGUMENT", "stream must be the same for every row of a request")]


def test_a_bad_request_leaves_its_batch_alone(stages: Stages) -> None:
    bad = [prompt([-1]), prompt([5], temperature=-1.0), {"input_ids": np.array([[5]], np.int32)}]
    batch = [one for wrong in bad for one in (prompt([5, 6], request_output_len=4), wrong)]
    senders = [pb_utils.ResponseSender() for _ in batch]
    requests = [make_request(ENGINE, v, sender=s) for v, s in zip(batch, senders, strict=True)]
    stages.engine.execute(requests)
    answers = [stages.collect(sender) for sender in senders]
    assert [tokens(answer[0]) for answer in answers[::2]] == [[5, 6, 5, 6]] * 3
    assert [answer[0].code for answer in answers[1::2]] == ["INVALID_ARGUMENT"] * 3
    assert answers[-1][0].message == "input_lengths must be given, and is missing"


def test_stop_words_end_the_engine_s_work(make_stages: Callable[..., Stages]) -> None:
    # There is room for one, and the first would run for longer than the test waits.
    stages = make_stages(engine={"max_batch_size": 1, "echo_itl_ms": 200})
    ids = small_tokenizer("single_bytes").encode("abcdef").ids
    stop = np.array([[b"cd"]], np.object_)
    for streaming in (False, True):
        outputs = stages.generate(prompt(ids, request_output_len=250, stop_words=stop, streaming=streaming))
        assert [i for output in outputs for i in tokens(output)] == ids[:2]
        assert outputs[-1]["finish_reason"].tolist() == [[b"stop"]]
        assert len(stages.generate(prompt([5], request_output_len=1))) == 1


def test_a_cancelled_request_ends_with_an_error_and_frees_its_place(make_stages: Callable[..., Stages]) -> None:
    stages = make_stages(engine={"max_batch_size": 1, "echo_itl_ms": 60_000})
    for streaming in (True, False):
        sender = stages.submit(prompt([5, 6], request_output_len=9, streaming=streaming))
        sender.cancelled.set()
        outputs = stages.collect(sender)
        assert outputs[-1] == Refused("CANCELLED", "the request was cancelled by its client")
        # The first token of the stream may have been sent before; there is room for one.
        assert len(outputs) <= 1 + streaming
    assert len(stages.generate(prompt([5], request_output_len=1))) == 1


def test_cancelling_one_row_s_request_leaves_others_running(make_stages: Callable[..., Stages]) -> None:
    stages = make_stages(engine={"echo_itl_ms": 2})
    kept = stages.submit(prompt([5, 6], request_output_len=200, streaming=True))
    given_up = stages.submit(prompt([7, 8], request_output_len=200, streaming=True))
    given_up.cancelled.set()
    assert stages.collect(given_up)[-1] == Refused("CANCELLED", "the request was cancelled by its client")
    assert [i for output in stages.collect(kept) for i in tokens(output)] == [5, 6] * 100


def test_no_question_after_the_last_response_under_load(
    make_stages: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel_watch, "TICK_S", 0.001)
    monkeypatch.setattr(cancel_watch, "POLLS_PER_S", 100_000)
    stages = make_stages(engine={"echo_itl_ms": 1}, serving={"max_responses_per_step": 4})
    chance = random.Random(7)
    lengths = [chance.randint(1, 60) for _ in range(60)]
    senders = []
    for length in lengths:
        sender = stages.submit(prompt([5, 6, 7], request_output_len=length, streaming=chance.random() < 0.7))
        if chance.random() < 0.3:
            threading.Timer(chance.random() / 10, sender.cancelled.set).start()
        senders.append(sender)
    for sender, length in zip(senders, lengths, strict=True):
        outputs = stages.collect(sender)  # the fixture looks at what would have crashed Triton
        if outputs[-1] == Refused("CANCELLED", "the request was cancelled by its client"):
            assert sender.cancelled.is_set()
        else:
            assert sum(len(tokens(output)) for output in outputs) == length


@pytest.mark.parametrize("max_responses_per_step", [1, 1000])
def test_many_streams_lose_nothing_whatever_the_limit(
    make_stages: Callable[..., Stages], max_responses_per_step: int
) -> None:
    stages = make_stages(serving={"max_responses_per_step": max_responses_per_step})
    senders = [stages.submit(prompt([n, n + 1], request_output_len=50, streaming=True)) for n in range(3, 43)]
    for n, sender in enumerate(senders, start=3):
        assert [i for output in stages.collect(sender) for i in tokens(output)] == [n, n + 1] * 25


def test_a_client_that_cannot_be_sent_to_does_not_stop_the_others(stages: Stages) -> None:
    def fail(_: pb_utils.ResponseSender) -> None:
        raise RuntimeError("no such client")

    broken = pb_utils.ResponseSender()
    broken.on_send = fail
    stages.engine.execute([make_request(ENGINE, prompt([5], request_output_len=20, streaming=True), sender=broken)])
    (output,) = stages.generate(prompt([5, 6], request_output_len=4))
    assert tokens(output) == [5, 6, 5, 6]


def test_a_last_response_that_cannot_be_sent_gives_its_receipt_back(stages: Stages) -> None:
    def fail(sender: pb_utils.ResponseSender) -> None:
        if sender.finals:
            failed.set()
            raise RuntimeError("no memory to share")

    free, failed = stages.engine._outbox._receipts._free, threading.Event()
    before = len(free)
    broken = pb_utils.ResponseSender()
    broken.on_send = fail
    values = prompt([5], request_output_len=3, streaming=True, send_receipts=True)
    stages.engine.execute([make_request(ENGINE, values, sender=broken)])
    assert failed.wait(TIMEOUT_S)
    stages.generate(prompt([5], request_output_len=1))
    assert len(free) == before


def test_closing_ends_what_is_in_flight(make_stages: Callable[..., Stages]) -> None:
    stages = make_stages(engine={"echo_itl_ms": 60_000, "max_batch_size": 1})
    senders = [stages.submit(prompt([5], request_output_len=9, streaming=n % 2 == 0)) for n in range(4)]
    stages.close()
    for sender in senders:
        assert stages.collect(sender)[-1] == Refused("UNAVAILABLE", "the engine is shutting down")


class RefusesTheFirst:
    """An engine that is back for the second row, when the error of the first has been sent."""

    load = Load(0, 0)

    def __init__(self, sender: pb_utils.ResponseSender) -> None:
        self.taken: list[int] = []
        self.asked = 0
        self._sender = sender

    def submit(self, request: GenerationRequest) -> None:
        self.asked += 1
        if self.asked == 1:
            raise UnavailableError("the engine is being restarted")
        assert self._sender.done.wait(TIMEOUT_S)
        self.taken.append(request.request_id)

    def cancel(self, request_id: int) -> None:
        if request_id in self.taken:
            self.taken.remove(request_id)

    def close(self) -> None: ...


def test_a_refused_row_does_not_leave_the_later_ones_running(
    make_stages: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = pb_utils.ResponseSender()
    engine = RefusesTheFirst(sender)
    monkeypatch.setattr(engine_stage, "create_engine", lambda *_: engine)
    stages = make_stages()
    ids = np.array([[5], [6], [7]], np.int32)
    values = {"input_ids": ids, "input_lengths": Rows([1, 1, 1])}
    stages.engine.execute([make_request(ENGINE, values, sender=sender)])
    assert stages.collect(sender) == [Refused("UNAVAILABLE", "the engine is being restarted")]
    assert engine.taken == []


def test_threads_end_with_the_stage(make_stages: Callable[..., Stages]) -> None:
    before = set(threading.enumerate())
    stages = make_stages()
    assert set(threading.enumerate()) - before
    stages.close()
    assert not [t for t in set(threading.enumerate()) - before if t.is_alive()]
