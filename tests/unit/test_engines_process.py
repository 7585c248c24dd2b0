"""The engine in a process of its own: deaths, restarts, and how it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scripted_worker
from engine_side import TIMEOUT_S, Sink, generation_request
from scripted_worker import ANSWER, BREAK, DIE, HANG, STALL
from server_processes import build_repository, wait_until

from conch.contract import ENGINE, ENGINE_CANNOT_START
from conch.engines import process
from conch.engines.base import EngineState
from conch.engines.process import ProcessEngine
from conch.errors import InternalError, RepositoryError, UnavailableError
from conch.repository.artifacts import ENGINE_DIR
from conch.repository.manifest import finished_versions
from conch.repository.settings import ReleaseSettings
from conch.spec import Engine as EngineSpec


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def make_engine(tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ProcessEngine]]:
    """Factory: a running engine whose workers are scripted; takes step_timeout_s."""
    monkeypatch.setattr(process, "WORKER_MODULE", scripted_worker.__name__)
    monkeypatch.setattr(process, "_PAUSES_S", (0.02,))
    search_path = [str(Path(scripted_worker.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search_path)))
    made: list[ProcessEngine] = []

    def make(step_timeout_s: int = 30) -> ProcessEngine:
        made.append(ProcessEngine(tmp_path, EngineSpec(step_timeout_s=step_timeout_s), sink))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    for pid in worker_pids(tmp_path):
        assert not is_running(pid), "a worker was left behind"


def worker_pids(folder: Path) -> list[int]:
    """Process ids of every worker that was started."""
    return [int(path.name.removeprefix("loading-")) for path in folder.glob("loading-*")]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def submit_when_ready(engine: ProcessEngine, request_id: int, ids: list[int], max_tokens: int = 3) -> None:
    """Submit, again and again while the engine is being restarted."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            engine.submit(generation_request(request_id, ids, max_tokens=max_tokens))
            return
        except UnavailableError as error:
            assert "being restarted" in str(error) or ENGINE_CANNOT_START in str(error)  # noqa: PT017
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_requests_are_answered_by_another_process(make_engine: Callable[[], ProcessEngine], sink: Sink) -> None:
    engine = make_engine()
    for n in range(1, 9):
        engine.submit(generation_request(n, [ANSWER], max_tokens=n))
    for n in range(1, 9):
        ids, reason = sink.wait_end(n)
        assert (len(ids), reason) == (n, "length")
        assert os.getpid() not in ids
    assert sink.steps >= 1


def test_a_killed_worker_ends_its_requests_and_is_replaced(
    make_engine: Callable[[], ProcessEngine], sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    for n in (1, 2, 3):
        engine.submit(generation_request(n, [STALL]))
    sink.wait(lambda: all(sink.ids(n) for n in (1, 2, 3)))
    (pid,) = set(sink.ids(1) + sink.ids(2) + sink.ids(3))
    os.kill(pid, signal.SIGKILL)
    for n in (1, 2, 3):
        error = sink.wait_end(n)[1]
        assert isinstance(error, UnavailableError)
        assert error.retryable
        assert str(error) == "the engine process ended (signal 9)"
    submit_when_ready(engine, 4, [ANSWER])
    ids, reason = sink.wait_end(4)
    assert reason == "length"
    assert pid not in ids
    assert "3 requests were in flight; a new one is started" in caplog.text


def test_a_worker_that_crashes_in_a_step_again_and_again(make_engine: Callable[[], ProcessEngine], sink: Sink) -> None:
    engine = make_engine()
    for n in (1, 2, 3):
        submit_when_ready(engine, n, [DIE])
        assert isinstance(sink.wait_end(n)[1], UnavailableError)
    submit_when_ready(engine, 4, [ANSWER])
    assert sink.wait_end(4)[1] == "length"


def test_while_no_worker_comes_up_requests_are_refused(
    make_engine: Callable[[], ProcessEngine], sink: Sink, tmp_path: Path
) -> None:
    engine = make_engine()
    (tmp_path / "crash").touch()
    engine.submit(generation_request(1, [DIE]))
    sink.wait_end(1)
    wait_until(lambda: len(worker_pids(tmp_path)) >= 3, TIMEOUT_S)
    with pytest.raises(UnavailableError, match=rf"^{ENGINE_CANNOT_START}; the cause is in the server's log$"):
        engine.submit(generation_request(2, [ANSWER]))
    engine.cancel(2)
    (tmp_path / "crash").unlink()
    submit_when_ready(engine, 3, [ANSWER])
    assert sink.wait_end(3)[1] == "length"


def test_closing_while_no_worker_comes_up(make_engine: Callable[[], ProcessEngine], sink: Sink, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    engine = make_engine()
    (tmp_path / "crash").touch()
    engine.submit(generation_request(1, [DIE]))
    wait_until(lambda: len(worker_pids(tmp_path)) >= 2, TIMEOUT_S)
    engine.close()
    assert not set(threading.enumerate()) - before
    with pytest.raises(UnavailableError, match="shutting down"):
        engine.submit(generation_request(2, [ANSWER]))


def test_closing_while_a_worker_loads(make_engine: Callable[[], ProcessEngine], sink: Sink, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    engine = make_engine()
    (tmp_path / "wait").touch()
    engine.submit(generation_request(1, [DIE]))
    wait_until(lambda: len(worker_pids(tmp_path)) == 2, TIMEOUT_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: _refuses_for_good(engine), TIMEOUT_S)
    (tmp_path / "wait").unlink()
    closing.join(TIMEOUT_S)
    wait_until(lambda: not set(threading.enumerate()) - before, TIMEOUT_S)
    assert not any(map(is_running, worker_pids(tmp_path)))


def test_the_pauses_between_attempts_grow_and_are_in_the_log(
    make_engine: Callable[[], ProcessEngine],
    sink: Sink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine()
    monkeypatch.setattr(process, "_PAUSES_S", (0.01, 0.02, 0.5))
    (tmp_path / "crash").touch()
    engine.submit(generation_request(1, [DIE]))
    sink.wait_end(1)
    wait_until(lambda: "attempt 4 failed" in caplog.text, TIMEOUT_S)
    for attempt, pause in ((1, "0.01"), (2, "0.02"), (3, "0.5"), (4, "0.5")):
        assert (
            f"{ENGINE_CANNOT_START}: the engine process ended while loading (exit code 3); "
            f"attempt {attempt} failed, the next one is in {pause} s"
        ) in caplog.text


def test_a_worker_that_hangs_is_killed_and_replaced(
    make_engine: Callable[..., ProcessEngine], sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(step_timeout_s=1)
    engine.submit(generation_request(1, [ANSWER, 1]))
    sink.wait_end(1)
    engine.submit(generation_request(2, [HANG]))
    engine.submit(generation_request(3, [STALL]))
    for n in (2, 3):
        error = sink.wait_end(n)[1]
        assert isinstance(error, UnavailableError)
        assert str(error) == "the engine stopped answering for 1 s"
    submit_when_ready(engine, 4, [ANSWER])
    ids, reason = sink.wait_end(4)
    assert reason == "length"
    assert not set(ids) & set(sink.ids(1)), "the same process answers"
    assert "the engine stopped answering for 1 s; 2 requests were in flight" in caplog.text


def test_a_stopped_worker_counts_as_hung(make_engine: Callable[..., ProcessEngine], sink: Sink) -> None:
    engine = make_engine(step_timeout_s=1)
    engine.submit(generation_request(1, [STALL]))
    sink.wait(lambda: bool(sink.ids(1)))
    os.kill(sink.ids(1)[0], signal.SIGSTOP)
    assert str(sink.wait_end(1)[1]) == "the engine stopped answering for 1 s"


def test_a_worker_that_reads_nothing_holds_up_nobody(make_engine: Callable[..., ProcessEngine], sink: Sink) -> None:
    """Far more than a socket holds is sent to it."""
    engine = make_engine(step_timeout_s=2)
    engine.submit(generation_request(1, [STALL]))
    sink.wait(lambda: bool(sink.ids(1)))
    os.kill(sink.ids(1)[0], signal.SIGSTOP)
    begun = time.monotonic()
    for n in range(2, 202):
        engine.submit(generation_request(n, [ANSWER] * 9_000))
    engine.cancel(201)
    assert time.monotonic() - begun < 2, "a request waited for the worker"
    for n in (1, 2, 200):
        assert str(sink.wait_end(n)[1]) == "the engine stopped answering for 2 s"


def test_long_steps_without_a_token_are_no_hang(make_engine: Callable[..., ProcessEngine], sink: Sink) -> None:
    """A worker that computes says so, and one without requests owes nothing."""
    engine = make_engine(step_timeout_s=1)
    engine.submit(generation_request(1, [STALL]))
    sink.wait(lambda: bool(sink.ids(1)))
    time.sleep(1.6)
    assert sink.end(1) is None
    engine.cancel(1)
    time.sleep(1.6)
    engine.submit(generation_request(2, [ANSWER]))
    assert sink.wait_end(2)[0][0] == sink.ids(1)[0], "another process answers"


def test_a_step_that_raises_ends_all_requests_and_the_worker(
    make_engine: Callable[[], ProcessEngine], sink: Sink
) -> None:
    engine = make_engine()
    engine.submit(generation_request(1, [STALL]))
    sink.wait(lambda: bool(sink.ids(1)))
    engine.submit(generation_request(2, [BREAK]))
    for n in (1, 2):
        error = sink.wait_end(n)[1]
        assert isinstance(error, InternalError)
        assert str(error) == "the engine failed while generating; the cause is in the server's log"
    for n in range(3, 99):  # one that comes while the process ends is refused
        submit_when_ready(engine, n, [ANSWER])
        ids, end = sink.wait_end(n)
        if end == "length":
            break
        assert isinstance(end, UnavailableError)
    assert ids[0] != sink.ids(1)[0], "the same process answers"


def test_what_is_counted_goes_on_when_the_worker_is_replaced(
    make_engine: Callable[[], ProcessEngine], sink: Sink
) -> None:
    engine = make_engine()
    engine.submit(generation_request(1, [STALL, 5, 5]))
    wait_until(lambda: sink.states and sink.states[-1].kv_cache_usage > 0, TIMEOUT_S)
    assert sink.states[-1] == EngineState(1 / 64, 3, 0)
    os.kill(sink.ids(1)[0], signal.SIGKILL)
    sink.wait_end(1)
    wait_until(lambda: sink.states[-1] == EngineState(0.0, 3, 0), TIMEOUT_S)
    submit_when_ready(engine, 2, [ANSWER, 5])
    sink.wait_end(2)
    wait_until(lambda: sink.states[-1] == EngineState(0.0, 5, 0), TIMEOUT_S)


def _refuses_for_good(engine: ProcessEngine) -> bool:
    try:
        engine.submit(generation_request(99, [STALL]))
    except UnavailableError as error:
        return "shutting down" in str(error)
    return False


def test_closing_ends_what_is_in_flight(make_engine: Callable[[], ProcessEngine], sink: Sink, tmp_path: Path) -> None:
    engine = make_engine()
    engine.submit(generation_request(1, [STALL]))
    sink.wait(lambda: bool(sink.ids(1)))
    engine.close()
    error = sink.end(1)
    assert isinstance(error, UnavailableError)
    assert str(error) == "the engine is shutting down"
    assert not any(map(is_running, worker_pids(tmp_path)))
    engine.close()


def test_after_a_cancel_nothing_more_is_delivered(make_engine: Callable[[], ProcessEngine], sink: Sink) -> None:
    engine = make_engine()
    sink.on_tokens = lambda request_id: engine.cancel(request_id) if request_id == 1 else None
    engine.submit(generation_request(1, [ANSWER], max_tokens=9_000))
    engine.submit(generation_request(2, [ANSWER], max_tokens=500))
    sink.wait_end(2)
    assert len(sink.ids(1)) == 1
    assert sink.end(1) is None


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("refuse", RepositoryError, "the engine folder holds no engine"),
        ("crash", UnavailableError, "the engine process ended while loading (exit code 3)"),
        (
            "killed",
            UnavailableError,
            "the engine process ended while loading (signal 9). Most likely memory ran out: free some, raise the "
            "container's limit, or build with a smaller engine.kv_cache_gib, smaller weights or a smaller model",
        ),
    ],
)
def test_an_engine_that_cannot_be_loaded_says_why(
    make_engine: Callable[[], ProcessEngine], tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(error) as caught:
        make_engine()
    assert str(caught.value) == message


@pytest.mark.slow
def test_the_embedded_engine_survives_a_kill(sink: Sink) -> None:
    repository = build_repository("smollm2-135m")
    folder = repository / ENGINE.name / str(finished_versions(repository)[-1])
    engine = ProcessEngine(folder / ENGINE_DIR, ReleaseSettings.read(folder).spec.engine, sink)
    try:
        engine.submit(generation_request(1, [1, 2, 3], max_tokens=9_000, end_id=-1))
        sink.wait(lambda: bool(sink.ids(1)))
        assert engine._link is not None
        os.kill(engine._link.pid, signal.SIGKILL)
        assert str(sink.wait_end(1)[1]) == "the engine process ended (signal 9)"
        submit_when_ready(engine, 2, [1, 2, 3], max_tokens=4)
        ids, reason = sink.wait_end(2)
        assert 1 <= len(ids) <= 4
        assert reason in ("length", "stop")
    finally:
        engine.close()
