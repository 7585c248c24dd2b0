"""Who counts as silent, and who does not."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path

import pytest
from admin_side import answering
from server_processes import wait_until

from conch.contract import ENGINE, TOKENIZER
from conch.server.heartbeat import MISSES, PARTS, Heartbeat, Part

TIMEOUT_S = 30
HANG_S = 3
TOKENIZER_PART, ENGINE_PART = (next(p for p in PARTS if p.name == m.name) for m in (TOKENIZER, ENGINE))
STATS = f"/v2/models/{TOKENIZER.name}/stats"


def stats(executions: int) -> str:
    return json.dumps({"model_stats": [{"execution_count": executions}]})


def is_quiet(heartbeat: Heartbeat, for_s: float) -> bool:
    """Whether nobody counts as silent, all the time."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        if heartbeat.silent():
            return False
        time.sleep(0.01)
    return True


def test_a_part_that_never_answers_is_silent_after_the_time_it_was_given(tmp_path: Path) -> None:
    released = threading.Event()

    def hang(path: str, body: str) -> tuple[int, str]:
        if path == STATS:
            return 200, stats(7)
        released.wait(TIMEOUT_S)
        return 200, ""

    with answering(hang) as asked:
        begun = time.monotonic()
        heartbeat = Heartbeat(asked.settings(tmp_path, probe_interval_s=1, hang_timeout_s=HANG_S), (TOKENIZER_PART,))
        wait_until(heartbeat.silent, TIMEOUT_S)
        assert time.monotonic() - begun >= 1 + HANG_S - 0.1
        assert heartbeat.silent() == f"{TOKENIZER.name} (timed out)"
        released.set()
        wait_until(lambda: not heartbeat.silent(), TIMEOUT_S)
        heartbeat.close()


def test_a_part_that_answers_late_but_works_is_not_silent(tmp_path: Path) -> None:
    released, executions = threading.Event(), itertools.count()

    def busy(path: str, body: str) -> tuple[int, str]:
        if path == STATS:
            return 200, stats(next(executions))
        released.wait(TIMEOUT_S)
        return 200, ""

    with answering(busy) as asked:
        heartbeat = Heartbeat(asked.settings(tmp_path, probe_interval_s=1, hang_timeout_s=1), (TOKENIZER_PART,))
        wait_until(lambda: asked.paths.count(STATS) > 2 * MISSES, TIMEOUT_S)
        assert not heartbeat.silent()
        heartbeat.close()
        released.set()


def test_a_miss_now_and_then_is_nothing(tmp_path: Path) -> None:
    answers = itertools.cycle([(500, "bad"), (500, "bad"), (200, "")])
    turns: list[int] = []

    def now_and_then(path: str, body: str) -> tuple[int, str]:
        if path == STATS:
            return 200, stats(7)
        turns.append(1)
        return next(answers)

    with answering(now_and_then) as asked:
        heartbeat = Heartbeat(asked.settings(tmp_path, probe_interval_s=1, hang_timeout_s=1), (TOKENIZER_PART,))
        assert is_quiet(heartbeat, 3)
        heartbeat.close()
    assert len(turns) >= MISSES


@pytest.mark.parametrize(
    ("part", "status", "body", "well"),
    [
        (TOKENIZER_PART, 200, "", True),
        (TOKENIZER_PART, 404, "", True),
        (TOKENIZER_PART, 500, "Stub process 'tokenizer_0_0' is not healthy.", False),
        (ENGINE_PART, 400, "INVALID_ARGUMENT: input_lengths must be in [1, 1], got 0", True),
        (ENGINE_PART, 404, "", True),
        (ENGINE_PART, 500, "Stub process 'llama_engine_0_0' is not healthy.", False),
        (PARTS[0], 200, "", True),
        (PARTS[0], 400, "", True),
    ],
)
def test_what_counts_as_an_answer(tmp_path: Path, part: Part, status: int, body: str, well: bool) -> None:
    with answering(lambda path, sent: (status, body)) as asked:
        heartbeat = Heartbeat(asked.settings(tmp_path, probe_interval_s=1, hang_timeout_s=1), (part,))
        if well:
            assert is_quiet(heartbeat, 2.5)
            assert asked.paths
        else:
            wait_until(heartbeat.silent, TIMEOUT_S)
            assert heartbeat.silent() == f"{part.name} ({body})"
        heartbeat.close()


def test_nobody_listens(tmp_path: Path) -> None:
    with answering(lambda path, body: (200, "")) as asked:
        settings = asked.settings(tmp_path, probe_interval_s=1, hang_timeout_s=1)
    heartbeat = Heartbeat(settings, PARTS)
    wait_until(heartbeat.silent, TIMEOUT_S)
    assert heartbeat.silent().startswith("tritonserver (")
    heartbeat.close()
