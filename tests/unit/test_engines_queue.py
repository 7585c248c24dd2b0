"""The line in front of an engine: order, limits, time limits, and what is left when requests end in any way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from engine_side import Sink, generation_request

from conch.engines.base import Engine, EngineState, GenerationRequest, Tokens
from conch.engines.pace import Course, Pace
from conch.engines.queue import Load, RequestQueue
from conch.errors import CancelledError, DeadlineExceededError, UnavailableError


class HandDriven(Engine):
    """An engine whose answers are given by the test."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.cancelled: list[int] = []
        self.refuses = False
        self.closed = False

    def submit(self, request: GenerationRequest) -> None:
        if self.refuses:
            raise UnavailableError("the engine is being restarted")
        self.taken.append(request.request_id)

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)

    def close(self) -> None:
        self.closed = True


class Line:
    """A queue of two places over such an engine."""

    def __init__(self, sink: Sink, max_queue_size: int = 0, queue_timeout_s: float = 0.0) -> None:
        self.sink, self.engine = sink, HandDriven()
        self.queue = RequestQueue(2, max_queue_size, queue_timeout_s, sink)
        self.queue.engine = self.engine

    def submit(self, request_id: int, **controls: Any) -> None:
        self.queue.submit(generation_request(request_id, [1, 2], **controls))

    def end(self, request_id: int) -> None:
        self.queue.tokens(Tokens(request_id, [5], "length"))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def line(sink: Sink) -> Iterator[Line]:
    line = Line(sink)
    yield line
    line.queue.close()


def test_what_does_not_fit_waits_in_order(line: Line) -> None:
    for request_id in range(1, 6):
        line.submit(request_id)
    assert line.engine.taken == [1, 2]
    assert line.queue.load == Load(waiting=3, running=2)
    line.end(2)
    line.end(1)
    assert line.engine.taken == [1, 2, 3, 4]
    assert line.sink.started == [1, 2, 3, 4]
    assert line.queue.load == Load(waiting=1, running=2)


def test_the_lowest_priority_goes_first_and_equal_ones_in_order(line: Line) -> None:
    for request_id, priority in ((1, 0), (2, 0), (3, 5), (4, -1), (5, 0), (6, -1)):
        line.submit(request_id, priority=priority)
    for request_id in (1, 2, 4, 6):
        line.end(request_id)
    assert line.engine.taken == [1, 2, 4, 6, 5, 3]


def test_sequences_take_places(line: Line) -> None:
    line.submit(1)
    line.submit(2, num_return_sequences=2, temperature=1.0)
    assert line.engine.taken == [1]
    line.end(1)
    assert line.engine.taken == [1, 2]
    line.submit(3)
    line.queue.tokens(Tokens(2, [5], "length", sequence=0))
    assert line.engine.taken == [1, 2], "one of the two answers is still computed"
    line.queue.tokens(Tokens(2, [5], "length", sequence=1))
    assert line.engine.taken == [1, 2, 3]


def test_nobody_overtakes_a_request_that_needs_more_places(line: Line) -> None:
    line.submit(1)
    line.submit(2, beam_width=2)
    line.submit(3)
    assert line.engine.taken == [1]


def test_who_waits_behind_one_that_gives_up_takes_the_place(line: Line) -> None:
    line.submit(1)
    line.submit(2, beam_width=2)
    line.submit(3)
    line.queue.cancel(2)
    assert line.engine.taken == [1, 3]
    assert line.queue.load == Load(waiting=0, running=2)


def test_who_waits_behind_one_that_is_too_late_takes_the_place(line: Line) -> None:
    line.submit(1)
    line.submit(2, beam_width=2, timeout_ms=20)
    line.submit(3)
    line.sink.wait_end(2)
    assert line.engine.taken == [1, 3]


def test_nothing_is_left_of_who_gave_up(line: Line) -> None:
    for request_id in range(1, 100):
        line.submit(request_id)
    for request_id in range(3, 100):
        line.queue.cancel(request_id)
    assert line.queue._line == []
    line.end(1)
    line.submit(100)
    assert line.engine.taken == [1, 2, 100], "there was a place"


def test_who_is_held_is_not_in_the_way(sink: Sink) -> None:
    line = Line(sink, max_queue_size=3)
    for request_id in (1, 2):
        line.queue.submit(generation_request(request_id, [1]), held=True)
    line.queue.submit(generation_request(3, [1], timeout_ms=30), held=False)
    with pytest.raises(UnavailableError, match="maximum queue size of 3 reached"):
        line.queue.submit(generation_request(4, [1]), held=True)  # half of the places are for others
    line.submit(5)
    line.submit(6)
    assert (line.engine.taken, line.queue.load) == ([3, 5], Load(waiting=3, running=2))
    line.queue.release(1)
    line.end(5)
    assert line.engine.taken == [3, 5, 1], "it came before"
    line.queue.cancel(2)
    assert not line.queue.holds(2)
    line.queue.release(2)
    line.end(1)
    assert line.engine.taken == [3, 5, 1, 6]
    line.queue.close()


def test_who_is_held_has_a_time_limit(line: Line) -> None:
    line.queue.submit(generation_request(1, [1], timeout_ms=20), held=True)
    _, error = line.sink.wait_end(1)
    assert str(error) == "timeout_ms of 20 has passed"
    assert not line.queue.holds(1)


def test_a_full_line_refuses_and_says_when_to_come_back(sink: Sink) -> None:
    line = Line(sink, max_queue_size=1)
    for request_id in (1, 2, 3):
        line.submit(request_id)
    with pytest.raises(UnavailableError, match=r"^maximum queue size of 1 reached\. Try again in 1 s$"):
        line.submit(4)  # how long an answer takes is not known yet
    line.end(1)
    line.submit(4)
    assert line.queue.load == Load(waiting=1, running=2)
    line.queue.close()


def test_who_waits_too_long_is_refused(sink: Sink) -> None:
    line = Line(sink, queue_timeout_s=0.05)
    for request_id in (1, 2, 3):
        line.submit(request_id)
    _, error = sink.wait_end(3)
    assert isinstance(error, UnavailableError)
    assert str(error) == "no place within the queue timeout of 50 ms"
    line.end(1)
    assert line.engine.taken == [1, 2]
    assert line.engine.cancelled == [], "those that run have no limit"
    line.queue.close()


def test_a_time_limit_holds_for_who_waits_and_who_runs(line: Line) -> None:
    line.submit(1, timeout_ms=50)
    line.submit(2)
    line.submit(3, timeout_ms=60)
    for request_id, limit in ((1, 50), (3, 60)):
        _, error = line.sink.wait_end(request_id)
        assert isinstance(error, DeadlineExceededError)
        assert str(error) == f"timeout_ms of {limit} has passed"
    assert line.engine.cancelled == [1] or line.engine.cancelled == [1, 3]
    assert line.queue.load.waiting == 0


def test_a_limit_that_cannot_be_met_is_refused_at_once(line: Line) -> None:
    line.submit(1)
    time.sleep(0.1)
    line.end(1)  # a request takes a tenth of a second
    for request_id in (2, 3, 4):
        line.submit(request_id)
    refusal = r"^timeout_ms of 1 cannot be met: its turn would come in about \d+ ms$"
    with pytest.raises(DeadlineExceededError, match=refusal):
        line.submit(5, timeout_ms=1)
    line.submit(6, timeout_ms=60_000)


def answer(line: Line, request_id: int, tokens: int, each_s: float) -> None:
    """Let a request run to its end."""
    line.submit(request_id, max_tokens=tokens)
    for count in range(1, tokens + 1):
        time.sleep(each_s)
        line.queue.tokens(Tokens(request_id, [5], "length" if count == tokens else None))


def test_an_answer_that_cannot_be_there_in_time_is_refused_on_an_idle_engine(line: Line) -> None:
    line.submit(1, min_tokens=8, timeout_ms=10_000)
    line.end(1)
    answer(line, 2, 12, 0.002)  # so a thousand take two seconds at least
    refusal = r"^timeout_ms of 500 cannot be met: 1000 tokens take at least [2-9]\d{3} ms$"
    for least in ({"min_tokens": 1000}, {"end_id": -1}):
        with pytest.raises(DeadlineExceededError, match=refusal):
            line.submit(3, max_tokens=1000, timeout_ms=500, **least)
    assert line.engine.taken == [1, 2]
    line.submit(4, max_tokens=1000, timeout_ms=500)
    line.submit(5, max_tokens=1000, timeout_ms=500, end_id=-1, stop_words=[b"."])
    assert line.engine.taken == [1, 2, 4, 5], "these may end before"


def test_the_least_that_an_answer_takes_comes_after_the_wait(line: Line) -> None:
    answer(line, 1, 12, 0.002)
    for request_id in (2, 3, 4):
        line.submit(request_id)
    refusal = r"^timeout_ms of 1000 cannot be met: its turn would come in about \d+ ms, and 1000 tokens take at least "
    with pytest.raises(DeadlineExceededError, match=refusal):
        line.submit(5, min_tokens=1000, max_tokens=1000, timeout_ms=1000)
    line.submit(6, min_tokens=20, max_tokens=1000, timeout_ms=10_000)


def test_the_fastest_pace_counts_and_is_forgotten_slowly() -> None:
    """A slow answer, in company, makes nothing impossible; nor does a fast one make everything possible for ever."""
    pace, params = Pace(), generation_request(1, [1], min_tokens=1001, max_tokens=2000).params

    def told(token_s: float, times: int = 1) -> float:
        for _ in range(times):
            pace.tokens(Course(time.monotonic() - 100 * token_s, 99), params, Tokens(1, [5], "length"))
        return pace.least_s(params)

    assert pace.least_s(params) == 0
    assert told(0.01) == pytest.approx(10, rel=0.05)
    assert told(0.001) == pytest.approx(1, rel=0.05)
    assert told(0.01) == pytest.approx(1, rel=0.1)
    assert told(0.01, times=100) == pytest.approx(10, rel=0.05)


def test_what_is_given_up_says_nothing_of_how_long_an_answer_takes(line: Line) -> None:
    for request_id in (1, 2):
        line.submit(request_id)
    time.sleep(0.05)
    line.queue.cancel(1)
    line.queue.failed(2, CancelledError("gone"))
    for request_id in (3, 4):
        line.submit(request_id)
    line.submit(5, timeout_ms=1_000)  # not refused
    assert line.queue._mean_s == 0


def test_a_cancel_frees_the_place_at_once(line: Line) -> None:
    for request_id in (1, 2, 3, 4):
        line.submit(request_id)
    line.queue.cancel(3)
    line.queue.cancel(1)
    line.queue.cancel(99)
    assert line.engine.taken == [1, 2, 4]
    assert line.engine.cancelled == [1]
    assert line.queue.load == Load(waiting=0, running=2)


def test_a_failure_frees_the_place_too(line: Line) -> None:
    for request_id in (1, 2, 3):
        line.submit(request_id)
    line.queue.failed(1, CancelledError("gone"))
    assert line.engine.taken == [1, 2, 3]


def test_an_engine_that_is_away_ends_those_whose_turn_comes(line: Line) -> None:
    for request_id in (1, 2, 3, 4):
        line.submit(request_id)
    line.engine.refuses = True
    line.queue.failed(1, UnavailableError("the engine process ended"))
    for request_id in (3, 4):
        _, error = line.sink.wait_end(request_id)
        assert str(error) == "the engine is being restarted"
    assert line.queue.load == Load(waiting=0, running=1)
    line.engine.refuses = False
    line.submit(5)
    assert line.engine.taken == [1, 2, 5]


def test_closing_ends_who_waits(sink: Sink) -> None:
    line = Line(sink)
    for request_id in (1, 2, 3):
        line.submit(request_id)
    line.queue.close()
    _, error = sink.wait_end(3)
    assert str(error) == "the engine is shutting down"
    assert line.engine.closed
    with pytest.raises(UnavailableError):
        line.submit(4)


def test_news_of_the_engine_pass_through(line: Line) -> None:
    line.queue.state(EngineState(0.5))
    assert line.sink.states == [EngineState(0.5)]
