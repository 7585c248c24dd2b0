"""The mirror of the prefix cache: by itself, and beside the engine that it mirrors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from engine_side import generation_request
from server_processes import build_repository

from conch.contract import ENGINE
from conch.engines import openvino
from conch.engines.base import CANCEL_STEPS, Failure
from conch.engines.openvino import OpenVinoBatcher
from conch.engines.prefix_mirror import BLOCK_TOKENS, PrefixMirror
from conch.errors import InvalidArgumentError
from conch.repository.artifacts import ENGINE_DIR, GGUF_FILE
from conch.repository.manifest import finished_versions
from conch.spec import Engine as EngineSpec

BLOCKS = 24  # of the small cache: it overflows after a few prompts
STEP_TOKENS = 16
PROMPT = list(range(100, 200))


def run_through(mirror: PrefixMirror, request_id: int, ids: list[int], answer: list[int]) -> int:
    """One request from its start to its end; the tokens of it that were found."""
    before = mirror.hit_tokens
    mirror.add(request_id, ids)
    for token in answer:
        mirror.tokens(request_id, [token])
    mirror.end(request_id)
    return mirror.hit_tokens - before


def test_a_prompt_is_found_again_but_for_its_last_token() -> None:
    mirror = PrefixMirror(1000)
    assert run_through(mirror, 1, PROMPT, [1]) == 0
    assert run_through(mirror, 2, PROMPT, [1]) == len(PROMPT) - 1
    assert mirror.query_tokens == 2 * len(PROMPT)


def test_the_same_prompt_again_and_again_takes_no_more_memory() -> None:
    mirror = PrefixMirror(1000)
    for request_id in range(2_000):
        run_through(mirror, request_id, PROMPT, [1, 2])
        mirror.settle(0)
    assert len(mirror._oldest) <= 1000 + 2 * len(mirror._kept) <= 1_100
    mirror = PrefixMirror(6)
    for request_id in range(100):  # compacted or not, the oldest goes first
        run_through(mirror, request_id, PROMPT, [1])
    assert run_through(mirror, 100, [7] * 64, [1]) == 0
    mirror.settle(0)
    assert len(mirror._kept) == 6


def test_an_answer_is_part_of_the_next_prompt() -> None:
    mirror = PrefixMirror(1000)
    answer = list(range(300, 340))
    run_through(mirror, 1, PROMPT, answer)
    # The answer's last token has come out of the engine and not gone in.
    assert run_through(mirror, 2, [*PROMPT, *answer, 7, 8, 9], [1]) == len(PROMPT) + len(answer) - 1


def test_another_beginning_is_another_prompt() -> None:
    mirror = PrefixMirror(1000)
    run_through(mirror, 1, PROMPT, [1])
    assert run_through(mirror, 2, [99, *PROMPT], [1]) == 0
    assert run_through(mirror, 3, [*PROMPT[:70], 1, 2, 3, 4], [1]) == 2 * BLOCK_TOKENS


def test_prompts_are_shared_while_they_run() -> None:
    mirror = PrefixMirror(1000)
    mirror.add(1, PROMPT)
    mirror.add(2, PROMPT)
    assert mirror.hit_tokens == 0, "nothing of it is computed yet"
    mirror.tokens(1, [5])
    mirror.add(3, PROMPT)
    assert mirror.hit_tokens == 3 * BLOCK_TOKENS
    mirror.end(1)
    mirror.settle(1000)
    mirror.add(4, PROMPT)
    assert mirror.hit_tokens == 6 * BLOCK_TOKENS, "the third request holds them still"


def test_the_oldest_are_forgotten_when_there_is_no_room() -> None:
    mirror = PrefixMirror(8)
    first, second = PROMPT[:64], [*range(500, 564)]
    run_through(mirror, 1, [*first, 1], [1])  # three blocks: one is not full
    run_through(mirror, 2, [*second, 1], [1])
    mirror.settle(5)
    assert run_through(mirror, 3, [*second, 2], [1]) == 64
    assert run_through(mirror, 4, [*first, 2], [1]) == 0


def test_a_request_that_was_cancelled_before_its_first_token_leaves_nothing() -> None:
    mirror = PrefixMirror(1000)
    assert run_through(mirror, 1, PROMPT, []) == 0
    assert run_through(mirror, 2, PROMPT, [1]) == 0
    mirror.end(99)


def test_without_a_prefix_cache_nothing_is_counted() -> None:
    mirror = PrefixMirror(0)
    run_through(mirror, 1, PROMPT, [1])
    run_through(mirror, 2, PROMPT, [1])
    assert (mirror.query_tokens, mirror.hit_tokens) == (0, 0)


@pytest.fixture(scope="module")
def engine_dir() -> Path:
    repository = build_repository("smollm2-135m")
    return repository / ENGINE.name / str(finished_versions(repository)[-1]) / ENGINE_DIR


@pytest.fixture
def batcher(engine_dir: Path, monkeypatch: pytest.MonkeyPatch) -> OpenVinoBatcher:
    """The embedded engine with a small cache and small steps."""

    def create_pipeline(folder: Path, *_: object) -> Any:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.num_kv_blocks = 0, BLOCKS
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.enable_prefix_caching = True
        return openvino_genai.ContinuousBatchingPipeline(str(folder / GGUF_FILE), scheduler, "CPU", {}, {})

    monkeypatch.setattr(openvino, "create_pipeline", create_pipeline)
    return OpenVinoBatcher(engine_dir, EngineSpec())


def answer_of(batcher: OpenVinoBatcher, request_id: int, ids: list[int], max_tokens: int) -> tuple[list[int], int]:
    """The answer, and the steps to its first token."""
    batcher.add(generation_request(request_id, ids, max_tokens=max_tokens, end_id=-1))
    answer: list[int] = []
    steps_to_first = 0
    while batcher.busy:
        steps_to_first += not answer
        for event in batcher.step():
            assert not isinstance(event, Failure)
            answer += event.ids
    return answer, steps_to_first


@pytest.mark.slow
def test_the_engine_computes_what_the_mirror_does_not_find(batcher: OpenVinoBatcher) -> None:
    """A step computes 16 tokens of a prompt, so the steps to the first token tell how much was found."""
    rng = random.Random(1)
    history = [[rng.randrange(10, 900) for _ in range(100)]]
    hits = 0
    for request_id in range(1, 60):
        base = rng.choice(history)
        ids = base[: rng.randrange(1, len(base) + 1)] + [rng.randrange(10, 900) for _ in range(rng.randrange(40))]
        ids = ids[:300]
        before = batcher.state().prefix_hit_tokens
        answer, steps = answer_of(batcher, request_id, ids, rng.randrange(1, 40))
        hit = batcher.state().prefix_hit_tokens - before
        hits += hit > 0
        assert steps == -(-(len(ids) - hit) // STEP_TOKENS), f"request {request_id}: {hit} of {len(ids)} found"
        history = [*history, ids + answer][-6:]
    assert 10 < hits < 59, "both hits and misses must be there"


@pytest.mark.slow
def test_the_use_of_the_cache_after_a_cancel(batcher: OpenVinoBatcher) -> None:
    assert batcher.state().kv_cache_usage == 0
    for n in (1, 2, 3):
        batcher.add(generation_request(n, [n] * 100, max_tokens=100, end_id=-1))
    for _ in range(25):
        batcher.step()
    assert batcher.state().kv_cache_usage == 12 / BLOCKS
    batcher.cancel(1)
    for _ in range(CANCEL_STEPS):
        batcher.step()
    assert batcher.state().kv_cache_usage == 8 / BLOCKS
    batcher.cancel(2)
    batcher.cancel(3)
    while batcher.busy:
        batcher.step()
    assert batcher.state().kv_cache_usage == 0, "what is kept for later prompts counts as free"


@pytest.mark.slow
def test_a_request_that_fills_the_whole_cache_is_answered_and_a_larger_one_refused(batcher: OpenVinoBatcher) -> None:
    prompt = list(range(100, 140))
    room = BLOCKS * BLOCK_TOKENS - len(prompt)
    with pytest.raises(InvalidArgumentError, match=f"at most {BLOCKS * BLOCK_TOKENS} tokens.*[(]40 of the prompt"):
        batcher.add(generation_request(1, prompt, max_tokens=room + 1, end_id=-1))
    assert len(answer_of(batcher, 2, prompt, room)[0]) == room


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [True, False])
def test_the_key_of_the_spec_switches_the_cache_off(engine_dir: Path, reuse: bool) -> None:
    """Without it the engine computes a prompt anew that it has just had: as many steps as the first time."""
    spec = EngineSpec(enable_kv_cache_reuse=reuse, max_num_tokens=64)
    batcher = OpenVinoBatcher(engine_dir, spec)
    steps = [answer_of(batcher, n, list(range(100, 300)), max_tokens=2)[1] for n in (1, 2)]
    state = batcher.state()
    assert (steps, state.prefix_hit_tokens) == (([4, 1], 192) if reuse else ([4, 4], 0))
    assert state.prefix_query_tokens == (400 if reuse else 0)
