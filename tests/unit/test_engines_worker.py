"""The worker's loop over a real socket pair, with a batcher that follows a script."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import pytest
from engine_side import TIMEOUT_S, generation_request

from conch.engines.base import CANCEL_STEPS, EngineState, Event, Failure, GenerationRequest, Tokens
from conch.engines.messages import Cancel, Step
from conch.engines.worker import EXIT_BROKEN, STATE_EVERY_S, Worker
from conch.errors import Code, ConchError, InvalidArgumentError, UnavailableError


@dataclass
class ScriptedBatcher:
    """Gives each request its prompt back, a token a step.

    13 in a prompt is refused, 14 breaks its taking in, 666 the step; 77 takes a while and gives nothing back.
    """

    live: dict[int, list[int]] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    steps: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def add(self, request: GenerationRequest) -> None:
        if 13 in request.input_ids:
            raise InvalidArgumentError("refused by the engine: 13")
        if 14 in request.input_ids:
            raise KeyError("inside")
        self.live[request.request_id] = list(request.input_ids)

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        self.live.pop(request_id, None)

    def step(self) -> list[Event]:
        self.steps += 1
        if any(ids[0] == 666 for ids in self.live.values()):
            raise RuntimeError("native code")
        events: list[Event] = []
        for request_id, ids in list(self.live.items()):
            token = ids.pop(0)
            if token == 77:
                time.sleep(0.01)
                continue
            if not ids:
                del self.live[request_id]
            if token == 0:
                events.append(Failure(request_id, UnavailableError("no room")))
                self.live.pop(request_id, None)
            else:
                events.append(Tokens(request_id, [token], None if ids else "stop"))
        return events

    def state(self) -> EngineState:
        return EngineState(len(self.live) / 64)


@dataclass
class Running:
    """A worker in a thread and the parent's end of its socket."""

    connection: Connection
    batcher: ScriptedBatcher
    thread: threading.Thread
    exit_codes: list[int]

    def message(self) -> Step:
        assert self.connection.poll(TIMEOUT_S)
        message = self.connection.recv()
        assert isinstance(message, Step)
        return message

    def receive(self) -> list[Event]:
        """Of the next message that holds some."""
        while not (events := self.message().events):
            pass
        return events

    def receive_until_ended(self, *request_ids: int) -> list[Event]:
        """Events until all of these have ended."""
        events, open_ids = [], set(request_ids)
        while open_ids:
            for event in self.receive():
                events.append(event)
                if isinstance(event, Failure) or event.finish_reason:
                    open_ids.discard(event.request_id)
        return events


@pytest.fixture
def running() -> Iterator[Running]:
    ours, theirs = socket.socketpair()
    batcher = ScriptedBatcher()
    worker = Worker(Connection(theirs.detach()), batcher)
    exit_codes: list[int] = []
    thread = threading.Thread(target=lambda: exit_codes.append(worker.run()))
    thread.start()
    connection = Connection(ours.detach())
    yield Running(connection, batcher, thread, exit_codes)
    connection.close()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_tokens_come_back_step_by_step(running: Running) -> None:
    running.connection.send(generation_request(1, [5, 6]))
    assert running.receive() == [Tokens(1, [5], None)]
    assert running.receive() == [Tokens(1, [6], "stop")]
    running.connection.send(generation_request(2, [7]))
    assert running.receive() == [Tokens(2, [7], "stop")]
    assert running.batcher.steps == 3, "a step with nothing to do"


def test_requests_join_while_others_run(running: Running) -> None:
    for n in range(1, 9):
        running.connection.send(generation_request(n, range(100, 100 + 5 * n)))
    events = running.receive_until_ended(*range(1, 9))
    for n in range(1, 9):
        ids = [i for e in events if isinstance(e, Tokens) and e.request_id == n for i in e.ids]
        assert ids == list(range(100, 100 + 5 * n))


def error_of(events: list[Event], request_id: int) -> ConchError:
    (error,) = [e.error for e in events if isinstance(e, Failure) and e.request_id == request_id]
    return error


def test_a_refused_request_leaves_the_others_alone(running: Running) -> None:
    running.connection.send(generation_request(1, [5, 6, 7]))
    running.connection.send(generation_request(2, [13]))
    events = running.receive_until_ended(1, 2)
    error = error_of(events, 2)
    assert (error.code, str(error)) == (Code.INVALID_ARGUMENT, "refused by the engine: 13")
    assert Tokens(1, [7], "stop") in events


def test_a_request_that_fails_in_a_step(running: Running) -> None:
    running.connection.send(generation_request(1, [5, 0]))
    error = error_of(running.receive_until_ended(1), 1)
    assert isinstance(error, UnavailableError)
    assert error.retryable


def test_a_cancel_ends_a_request(running: Running) -> None:
    running.connection.send(generation_request(1, [5] * 9_000))
    running.receive()
    running.connection.send(Cancel(1))
    running.connection.send(Cancel(99))
    running.connection.send(generation_request(2, [7, 8]))
    running.receive_until_ended(2)
    assert running.batcher.cancelled == [1, 99]
    assert not running.batcher.busy


def test_a_step_that_breaks_ends_what_runs_and_the_worker(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.connection.send(generation_request(4, [8]))
    running.receive_until_ended(4)
    running.connection.send(generation_request(2, [5] * 9_000))
    running.connection.send(generation_request(1, [5, 6, 666, 7]))
    events = running.receive_until_ended(1, 2)
    assert {event.request_id for event in events} == {1, 2}
    for n in (1, 2):
        error = error_of(events, n)
        assert (error.code, str(error)) == (
            Code.INTERNAL, "the engine failed while generating; the cause is in the server's log",
        )  # fmt: skip
    assert "native code" in caplog.text
    running.thread.join(TIMEOUT_S)
    assert running.exit_codes == [EXIT_BROKEN]


def test_what_breaks_while_a_request_is_taken_in_ends_it_alone(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.connection.send(generation_request(1, [5, 6, 7]))
    running.connection.send(generation_request(2, [14]))
    events = running.receive_until_ended(1, 2)
    assert error_of(events, 2).code is Code.INTERNAL
    assert "inside" in caplog.text
    assert "inside" not in str(error_of(events, 2))
    assert Tokens(1, [7], "stop") in events


def test_the_state_comes_now_and_then_even_if_there_are_no_tokens(running: Running) -> None:
    running.connection.send(generation_request(1, [77] * 100 + [5]))
    begun, states = time.monotonic(), 0
    while not (message := running.message()).events:
        assert message.state == EngineState(1 / 64)
        states += 1
    assert states >= 5
    assert states <= (time.monotonic() - begun) / STATE_EVERY_S + 2, "more often than said"


def test_the_state_comes_once_when_there_is_nothing_left_to_do(running: Running) -> None:
    running.connection.send(generation_request(1, [5, 6, 7]))
    messages = [running.message() for _ in range(3)]
    assert messages[-1] == Step([Tokens(1, [7], "stop")], EngineState(0.0))
    running.connection.send(generation_request(2, [5] * 9_000))
    running.receive()
    running.connection.send(Cancel(2))
    begun = time.monotonic()
    while running.message().state != EngineState(0.0):
        assert time.monotonic() - begun < TIMEOUT_S
    assert not running.connection.poll(3 * STATE_EVERY_S), "an idle worker goes on talking"


def test_the_state_comes_as_soon_as_a_cancel_has_taken_effect(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others run on, whose steps tell of it seldom."""
    monkeypatch.setattr("conch.engines.worker.STATE_EVERY_S", 1000.0)
    for n in (1, 2, 3):
        running.connection.send(generation_request(n, [5, *[77] * 600, 6]))
    running.receive()
    for n in (2, 3):
        before = running.batcher.steps
        running.connection.send(Cancel(n))
        while running.message().state is None:
            pass
        told = running.batcher.cancelled, len(running.batcher.live), running.batcher.steps - before
        assert told[:2] == ([2, 3][: n - 1], 4 - n)
        assert CANCEL_STEPS <= told[2] < 50


def test_it_ends_with_the_connection_in_the_middle_of_work(running: Running) -> None:
    running.connection.send(generation_request(1, [5] * 9_000))
    running.receive()
    running.connection.close()
    running.thread.join(TIMEOUT_S)
    assert not running.thread.is_alive()
    assert running.exit_codes == [0]
