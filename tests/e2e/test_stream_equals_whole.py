"""The pieces of a streamed answer joined are the answer that is not streamed: 200 prompts and more, in all scripts.

On the deterministic server, where that can be asked of requests that share a batch with others.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from corpus import prompts
from server_processes import Server
from triton_calls import GREEDY, Reply, generate, infer

from conch.contract import ENSEMBLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MAX_TOKENS = 16
CONCURRENCY = 32


def _fields(prompt: str, stream: bool) -> dict[str, Any]:
    counts = {"return_num_output_tokens": True}
    return {"text_input": prompt, "max_tokens": MAX_TOKENS, "stream": stream, **GREEDY, **counts}


def test_streamed_pieces_joined_are_the_whole(deterministic_stub: Any, record_property: Any) -> None:
    def both(named: tuple[str, str]) -> tuple[str, Reply, Reply]:
        whole, streamed = (infer(deterministic_stub, ENSEMBLE.name, _fields(named[1], s)) for s in (False, True))
        return named[0], whole, streamed

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(pool.map(both, prompts()))
    assert len(answers) >= 200
    assert not [(name, r.error) for name, *replies in answers for r in replies if r.error]
    different = {name: (w.text, s.text) for name, w, s in answers if w.text != s.text}
    assert different == {}
    for name, whole, streamed in answers:
        assert len(whole.responses) == 1, name
        assert whole.finish_reason == streamed.finish_reason, name
        assert whole.total("num_output_tokens") == streamed.total("num_output_tokens"), name
    record_property("prompts", len(answers))
    # What makes the comparison worth something: many pieces, and characters that are cut by the borders of tokens.
    assert sum(len(streamed.responses) for _, _, streamed in answers) > 10 * len(answers)
    assert sum(not whole.text.isascii() for _, whole, _ in answers) > 50


def test_the_same_over_http(deterministic: Server) -> None:
    chosen = prompts()[::15]
    with ThreadPoolExecutor(8) as pool:
        wholes = list(pool.map(lambda p: generate(deterministic, ENSEMBLE.name, _fields(p[1], False)), chosen))
        streams = list(pool.map(lambda p: generate(deterministic, ENSEMBLE.name, _fields(p[1], True), True), chosen))
    assert not [r.error for r in (*wholes, *streams) if r.error]
    assert [s.text for s in streams] == [w.text for w in wholes]


def test_alone_in_the_fast_default(stub: Any) -> None:
    """One at a time. The first request is for the cache of prompts alone: with it and without it answers may differ."""
    for name, prompt in prompts()[4::44]:
        infer(stub, ENSEMBLE.name, _fields(prompt, False))
        whole, streamed = (infer(stub, ENSEMBLE.name, _fields(prompt, stream)) for stream in (False, True))
        assert not whole.error + streamed.error, name
        assert streamed.text == whole.text, name
