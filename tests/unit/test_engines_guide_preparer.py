"""Compilation beside the engine: the real compiler over a vocabulary of bytes, this test in the engine's place."""

from __future__ import annotations

import time

import pytest
from engine_side import TIMEOUT_S, generation_request

from conch.engines import guide_preparer
from conch.engines.base import GenerationRequest
from conch.engines.guide_model import GuideVocabulary
from conch.engines.guide_preparer import GuidePreparer
from conch.errors import ConchError
from conch.sampling import Guide

Taken = list[tuple[GenerationRequest, Guide, ConchError | None]]


@pytest.fixture
def preparer() -> GuidePreparer:
    vocabulary = GuideVocabulary((*(bytes([n]) for n in range(256)), b""), 256)
    return GuidePreparer(vocabulary, vocabulary.open_tokenizer())


def take(preparer: GuidePreparer) -> Taken:
    deadline = time.monotonic() + TIMEOUT_S
    while not (taken := preparer.take(0.02)):
        assert time.monotonic() < deadline
    return taken


def add(preparer: GuidePreparer, request_id: int, expression: str) -> None:
    preparer.add(generation_request(request_id, [1]), Guide("regex", expression))


def test_the_next_guide_waits_until_the_last_one_has_begun(preparer: GuidePreparer) -> None:
    assert preparer.take(0.02) == []
    add(preparer, 1, "a")
    add(preparer, 2, "b")
    add(preparer, 3, "a")
    assert [(r.request_id, error) for r, _, error in take(preparer)] == [(1, None), (3, None)]
    preparer.begun(1)
    assert preparer.busy
    assert preparer.take(0.2) == [], "3 has no first token yet"
    preparer.begun(3)
    assert [r.request_id for r, _, _ in take(preparer)] == [2]
    assert not preparer.busy


def test_a_request_that_is_given_up_is_not_handed_over(preparer: GuidePreparer) -> None:
    add(preparer, 1, "a")
    add(preparer, 2, "b")
    preparer.drop(1)
    assert [r.request_id for r, _, _ in take(preparer)] == [2]


def test_a_guide_that_does_not_compile_holds_nobody_up(preparer: GuidePreparer) -> None:
    add(preparer, 1, "((")
    add(preparer, 2, "b")
    ((request, _, error),) = take(preparer)
    assert request.request_id == 1
    assert "The parenthesis is not closed" in str(error)
    assert [r.request_id for r, _, _ in take(preparer)] == [2]


def test_what_was_compiled_is_forgotten_when_it_is_too_much(
    preparer: GuidePreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guide_preparer, "MAX_COMPILED", 3)
    for n in range(20):
        add(preparer, n, f"[a-z]{{{n + 1}}}")
        assert [(r.request_id, error) for r, _, error in take(preparer)] == [(n, None)]
        preparer.begun(n)
        assert len(preparer._outcomes) == (n + 1) % 3
