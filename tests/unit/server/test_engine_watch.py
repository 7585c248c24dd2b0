"""The ensembles are out of service while the engine's own process is away, and come back with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from admin_side import Asked, answering
from server_processes import started, wait_until

from conch.contract import ASYNC_WORKER_MODULE, ENGINE, ENGINE_CANNOT_START, ENSEMBLE, WORKER_MODULE, ensembles
from conch.server import engine_watch, procfs
from conch.server.engine_watch import EngineWatch
from conch.server.leftovers import Stub
from conch.server.state import this_process

TIMEOUT_S = 30
NAMES = [e.name for e in ensembles(False)]
RESTARTING = (400, "UNAVAILABLE: the engine is being restarted; try again in a few seconds")
CANNOT_START = (400, f"UNAVAILABLE: {ENGINE_CANNOT_START}; the cause is in the server's log")


@dataclass
class Engine:
    """What the engine answers now, and what was said of it."""

    answer: tuple[int, str] = RESTARTING
    load: tuple[int, str] = (200, "")
    said: list[str] = field(default_factory=list)


@contextmanager
def watched(tmp_path: Path, engine: Engine, version: int = 3, **changes: int) -> Iterator[tuple[EngineWatch, Asked]]:
    """A watch over this process as the engine's stage."""

    def script(path: str, body: str) -> tuple[int, str]:
        return engine.answer if path.endswith("/generate") else engine.load if path.endswith("/load") else (200, "")

    config = tmp_path / "repository" / ENSEMBLE.name / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text("ensemble_scheduling { step { model_name: \"tokenizer\" model_version: 3 } }\n")
    with answering(script) as asked:
        watch = EngineWatch(asked.settings(tmp_path, **changes), "key", version, False, engine.said.append)
        yield watch, asked


def stub() -> Stub:
    return Stub(this_process(), ENGINE.name, "3", "region")


@contextmanager
def worker(module: str = WORKER_MODULE) -> Iterator[None]:
    """A process with the arguments of the engine's own, below this one."""
    with started([sys.executable, "-c", "import time; time.sleep(600)", module]) as process:
        wait_until(lambda: module in procfs.arguments(process.pid), TIMEOUT_S)
        yield


def lose_worker(watch: EngineWatch, module: str = WORKER_MODULE) -> None:
    """Let it see the engine's process, and the end of that."""
    with worker(module):
        watch.note([stub()])
        assert watch.look() == ""
        assert not watch.away
    assert watch.look() == ""
    assert watch.away


def look_until(watch: EngineWatch, away: bool) -> str:
    why = ""

    def done() -> bool:
        nonlocal why
        why = watch.look()
        return bool(why) or watch.away is away

    wait_until(done, TIMEOUT_S)
    return why


def test_the_ensembles_go_and_come_back(tmp_path: Path) -> None:
    engine = Engine()
    with watched(tmp_path, engine) as (watch, asked):
        lose_worker(watch)
        assert asked.paths[: len(NAMES)] == [f"/v2/repository/models/{name}/unload" for name in NAMES]
        for _ in range(5):
            assert watch.look() == ""
        assert watch.away
        with worker():
            engine.answer = (200, "{}")
            assert look_until(watch, away=False) == ""
            assert asked.paths[-len(NAMES) :] == [f"/v2/repository/models/{name}/load" for name in NAMES]
        assert "no requests are taken until a new one answers" in engine.said[0]
        assert "the engine answers again after" in engine.said[1]
        assert watch.look() == ""
        assert watch.away, "the next one died before the stages were looked for again"


@pytest.mark.parametrize("module", [WORKER_MODULE, ASYNC_WORKER_MODULE])
def test_the_process_of_every_runtime_is_known(tmp_path: Path, module: str) -> None:
    with watched(tmp_path, Engine()) as (watch, _):
        lose_worker(watch, module)


def test_an_answer_of_a_process_that_is_gone_again_does_not_count(tmp_path: Path) -> None:
    engine = Engine((200, "{}"))
    with watched(tmp_path, engine) as (watch, asked):
        lose_worker(watch)
        wait_until(lambda: watch.look() != "" or sum(p.endswith("/generate") for p in asked.paths) > 2, TIMEOUT_S)
        assert watch.away


def test_an_engine_without_a_process_of_its_own_is_left_alone(tmp_path: Path) -> None:
    with watched(tmp_path, Engine()) as (watch, asked):
        for _ in range(3):
            watch.note([stub()])
            assert watch.look() == ""
        assert not watch.away
        assert not asked.paths


def test_a_successor_does_not_hide_a_death(tmp_path: Path) -> None:
    with watched(tmp_path, Engine()) as (watch, _):
        with worker():
            watch.note([stub()])
        with worker():
            watch.note([stub()])
            watch.look()
            assert watch.away


def test_a_process_that_cannot_be_started_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_watch, "GIVE_UP_S", 0.3)
    with watched(tmp_path, Engine(CANNOT_START)) as (watch, _):
        lose_worker(watch)
        assert "the engine's process could not be started for" in look_until(watch, away=False)


def test_a_process_that_loads_long_is_waited_for_as_long_as_a_start_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_watch, "GIVE_UP_S", 0.1)
    with watched(tmp_path, Engine(RESTARTING), start_timeout_s=1) as (watch, _):
        lose_worker(watch)
        assert look_until(watch, away=False) == "the engine has not answered for 1 s"


@pytest.mark.parametrize(
    ("version", "load", "why"),
    [
        (2, (200, ""), "another release was built meanwhile"),
        (3, (400, "failed to load"), f"{NAMES[0]} cannot be loaded again: failed to load"),
    ],
)
def test_what_cannot_be_brought_back_is_started_anew(
    tmp_path: Path, version: int, load: tuple[int, str], why: str
) -> None:
    with watched(tmp_path, Engine((200, "{}"), load), version) as (watch, _):
        lose_worker(watch)
        with worker():
            assert why in look_until(watch, away=False)
