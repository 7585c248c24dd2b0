"""Requests and specs that are larger than the KV cache."""

from __future__ import annotations

from typing import Any

import pytest
from engine_side import generation_request

from conch.engines.cache_room import require_cache, require_room
from conch.errors import InvalidArgumentError, RepositoryError
from conch.spec import Engine

SPEC = Engine(kv_cache_gib=2)
TWO = {"num_return_sequences": 2, "temperature": 1.0}


def test_a_promise_that_the_cache_cannot_keep() -> None:
    spec = Engine(kv_cache_gib=2, max_seq_len=1025)
    for cache_tokens in (0, 1025, 9999):
        require_cache(spec, cache_tokens)
    require_cache(SPEC, 32)  # promises nothing
    with pytest.raises(RepositoryError) as caught:
        require_cache(spec, 1024)
    assert caught.value.message == (
        "engine.max_seq_len must be at most 1024, the tokens that engine.kv_cache_gib 2 holds of this model, got 1025"
    )
    assert "kv_cache_gib" in caught.value.mend


@pytest.mark.parametrize(
    "controls",
    [{"max_tokens": 56}, {"max_tokens": 28, **TWO}, {"max_tokens": 56, "beam_width": 4}],
)
def test_a_request_that_fits(controls: dict[str, Any]) -> None:
    require_room(generation_request(1, range(8), **controls), SPEC, 64)


@pytest.mark.parametrize(
    ("controls", "got"),
    [
        ({"max_tokens": 57}, "got 65 (8 of the prompt, 57)"),
        ({"max_tokens": 29, **TWO}, "got 66 (8 of the prompt, 2 answers of 29)"),
        ({"max_tokens": 57, "beam_width": 4}, "got 65 (8 of the prompt, 57)"),
    ],
)
def test_a_request_that_never_fits(controls: dict[str, Any], got: str) -> None:
    request = generation_request(1, range(8), **controls)
    with pytest.raises(InvalidArgumentError) as caught:
        require_room(request, SPEC, 64)
    assert str(caught.value) == (
        f"prompt and max_tokens together must be at most 64 tokens, what the KV cache of 2 GiB holds, {got}"
    )
    assert not caught.value.retryable
    require_room(request, SPEC, 0)
