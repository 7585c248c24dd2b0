"""The wire between an engine's process and its parent, over a real socket pair."""

from __future__ import annotations

import socket
from multiprocessing.connection import Connection

import pytest

from conch.engines.base import EngineState, Event, Failure, Tokens
from conch.engines.messages import Step
from conch.engines.wire import Wire
from conch.errors import UnavailableError


def wires() -> tuple[Wire, Wire]:
    ours, theirs = socket.socketpair()
    return Wire(ours.detach()), Wire(theirs.detach())


def test_a_step_arrives_as_it_was_sent() -> None:
    ours, theirs = wires()
    events: list[Event] = [
        Tokens(1, [5, 6], None),
        Failure(2, UnavailableError("no room")),
        Tokens(3, [], "stop", [-0.5], sequence=2),
    ]
    ours.send(Step(events, EngineState(0.25, 7, 3)))
    received = theirs.recv()
    assert isinstance(received, Step)
    assert (received.events[0], received.events[2], received.state) == (events[0], events[2], EngineState(0.25, 7, 3))
    failure = received.events[1]
    assert isinstance(failure, Failure)
    assert (failure.request_id, type(failure.error), failure.error.message) == (2, UnavailableError, "no room")


def test_who_looks_sees_messages_and_the_end() -> None:
    ours, theirs = wires()
    assert not theirs.poll()
    assert not theirs.poll(0.01)
    ours.send("word")
    assert theirs.poll(None)
    assert theirs.recv() == "word"
    assert not theirs.poll()
    ours.close()
    assert theirs.poll()
    with pytest.raises(EOFError):
        theirs.recv()
    with pytest.raises(BrokenPipeError, match="pipe"):
        theirs.send("word")


def test_a_plain_connection_understands_it() -> None:
    ours, theirs = socket.socketpair()
    wire, plain = Wire(ours.detach()), Connection(theirs.detach())
    plain.send([1, 2])
    assert wire.recv() == [1, 2]
    wire.send([3])
    assert plain.recv() == [3]
