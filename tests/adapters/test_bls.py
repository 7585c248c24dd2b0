"""Streams of other models are held for a while after their end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from server_processes import wait_until

from conch.triton import bls


class Responses(list[str]):
    """A stream that can be watched."""


class Request:
    def __init__(self, responses: Responses) -> None:
        self._responses = responses

    def exec(self, *, decoupled: bool) -> Responses:
        assert decoupled
        return self._responses


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> bls.Keeper:
    keeper = bls.Keeper(round_s=0.05)
    monkeypatch.setattr(bls, "_keeper", keeper)
    return keeper


def request_of(responses: Responses) -> Any:
    return Request(responses)


def test_a_stream_is_held_after_its_end_and_let_go_later(keeper: bls.Keeper) -> None:
    responses = Responses(["a", "b"])
    watched = weakref.ref(responses)
    assert list(bls.stream(request_of(responses))) == ["a", "b"]
    assert len(keeper) == 1
    del responses
    gc.collect()
    assert watched() is not None or len(keeper) == 0
    wait_until(lambda: watched() is None, 10)
    assert len(keeper) == 0


def test_a_stream_that_is_left_early_is_held_too(keeper: bls.Keeper) -> None:
    stream = bls.stream(request_of(Responses(["a", "b"])))
    assert next(stream) == "a"
    assert len(keeper) == 0
    stream.close()
    assert len(keeper) == 1


def test_what_is_held_lives_at_least_a_round() -> None:
    keeper = bls.Keeper(round_s=3600)
    responses = Responses(["a"])
    watched = weakref.ref(responses)
    keeper.keep(responses)
    del responses
    gc.collect()
    assert watched() is not None
