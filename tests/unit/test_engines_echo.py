"""The engine without a model: what it answers, in what order, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_side import Sink, generation_request

from conch.engines.echo import EchoEngine
from conch.engines.factory import create_engine
from conch.errors import UnavailableError
from conch.spec import Engine as EngineSpec
from conch.spec import ModelSpec, Runtime, Source

SLOW_MS = 60_000


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def make_engine(sink: Sink) -> Iterator[Callable[..., EchoEngine]]:
    """Factory: keys of the spec's engine section -> a running engine."""
    made: list[EchoEngine] = []

    def make(**spec: Any) -> EchoEngine:
        made.append(EchoEngine(EngineSpec(runtime=Runtime.ECHO, **spec), sink))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def test_the_prompt_is_played_back(make_engine: Callable[..., EchoEngine], sink: Sink) -> None:
    make_engine().submit(generation_request(1, [5, 6, 7], max_tokens=5))
    assert sink.wait_end(1) == ([5, 6, 7, 5, 6], "length")
    assert [event[1:] for event in sink.events] == [
        ([5], None), ([6], None), ([7], None), ([5], None), ([6], "length"),
    ]  # fmt: skip
    assert sink.steps >= 1


@pytest.mark.parametrize(
    ("controls", "ids", "reason"),
    [
        ({}, [5, 2], "stop"),
        ({"max_tokens": 2}, [5, 2], "stop"),
        ({"max_tokens": 1}, [5], "length"),
        ({"end_id": 7}, [5, 2, 7], "stop"),
        ({"end_id": -1, "max_tokens": 4}, [5, 2, 7, 5], "length"),
        ({"min_tokens": 2}, [5, 2, 7, 5, 2], "stop"),
    ],
)
def test_finish_reasons(
    make_engine: Callable[..., EchoEngine], sink: Sink, controls: dict[str, Any], ids: list[int], reason: str
) -> None:
    make_engine().submit(generation_request(1, [5, 2, 7], **controls))
    assert sink.wait_end(1) == (ids, reason)


def test_many_at_once_and_more_than_fit(make_engine: Callable[..., EchoEngine], sink: Sink) -> None:
    engine = make_engine(max_batch_size=3)
    for n in range(1, 21):
        engine.submit(generation_request(n, [n + 10, n + 11], max_tokens=n))
    for n in range(1, 21):
        assert sink.wait_end(n) == (([n + 10, n + 11] * 10)[:n], "length")


def test_no_more_than_fit_run_and_those_that_came_first_go_first(
    make_engine: Callable[..., EchoEngine], sink: Sink
) -> None:
    engine = make_engine(max_batch_size=1, echo_itl_ms=1)
    for n in (1, 2, 3):
        engine.submit(generation_request(n, [n + 10], max_tokens=4))
    sink.wait_end(3)
    assert [event[0] for event in sink.events] == [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("ttft_ms", [0, SLOW_MS])
def test_a_cancelled_request_gives_its_place_away(
    make_engine: Callable[..., EchoEngine], sink: Sink, ttft_ms: int
) -> None:
    engine = make_engine(max_batch_size=1, echo_ttft_ms=ttft_ms, echo_itl_ms=SLOW_MS)
    engine.submit(generation_request(1, [5], max_tokens=3))
    engine.submit(generation_request(2, [6], max_tokens=1))
    if ttft_ms:
        engine.cancel(2)  # it still waits for its place
        engine.cancel(1)
        engine.close()
        assert sink.events == []
    else:
        sink.wait(lambda: bool(sink.ids(1)))
        engine.cancel(1)
        assert sink.wait_end(2) == ([6], "length")
        assert sink.end(1) is None


def test_a_request_that_is_cancelled_while_its_token_is_delivered_is_over(
    make_engine: Callable[..., EchoEngine], sink: Sink
) -> None:
    engine = make_engine(max_batch_size=1)
    sink.on_tokens = lambda request_id: engine.cancel(request_id) if request_id == 1 else None
    engine.submit(generation_request(1, [5], max_tokens=9_000))
    engine.submit(generation_request(2, [6], max_tokens=3))
    assert sink.wait_end(2) == ([6, 6, 6], "length")
    assert sink.ids(1) == [5]


def test_cancelling_what_is_not_there_does_nothing(make_engine: Callable[..., EchoEngine], sink: Sink) -> None:
    engine = make_engine()
    engine.cancel(1)
    engine.submit(generation_request(1, [5], max_tokens=2))
    assert sink.wait_end(1) == ([5, 5], "length")
    engine.cancel(1)
    engine.submit(generation_request(2, [5], max_tokens=2))
    assert sink.wait_end(2) == ([5, 5], "length")


def test_closing_ends_what_runs_and_what_waits(make_engine: Callable[..., EchoEngine], sink: Sink) -> None:
    engine = make_engine(max_batch_size=1, echo_itl_ms=SLOW_MS)
    for n in (1, 2):
        engine.submit(generation_request(n, [5], max_tokens=3))
    sink.wait(lambda: bool(sink.ids(1)))
    engine.close()
    for n in (1, 2):
        error = sink.end(n)
        assert isinstance(error, UnavailableError)
        assert str(error) == "the engine is shutting down"
    with pytest.raises(UnavailableError, match="shutting down"):
        engine.submit(generation_request(3, [5]))
    engine.close()


def test_a_spec_of_the_echo_runtime_makes_it(sink: Sink, tmp_path: Path) -> None:
    spec = ModelSpec(name="x", source=Source(uri="x.gguf"), engine=EngineSpec(runtime=Runtime.ECHO))
    queue = create_engine(spec, tmp_path, sink)
    assert isinstance(queue.engine, EchoEngine)
    queue.close()
