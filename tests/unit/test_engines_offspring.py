"""Workers of asynchronous engines as real processes: their Python, their ends, and what they leave behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_side import Sink, generation_request
from server_processes import ROOT, wait_until

from conch.engines import process
from conch.engines.interpreter import VARIABLE, engine_command, package_version_in, require_package
from conch.engines.offspring import end_offspring, marked_environment
from conch.engines.process import ProcessEngine
from conch.errors import RepositoryError, UnavailableError
from conch.spec import Engine as EngineSpec
from conch.spec import Runtime

SLEEPER = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "time.sleep(60)"
)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Factory: a process that starts another; both are gone at the end."""
    made: list[subprocess.Popen[bytes]] = []

    def start(code: str = "", *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", f"{code}{SLEEPER}", *arguments]
        made.append(subprocess.Popen(command, env=marked_environment(), stdout=subprocess.DEVNULL, **options))
        wait_until(lambda: bool(children(made[-1].pid)), 20)
        return made[-1]

    yield start
    for started in made:
        if started.poll() is None:
            for pid in children(started.pid):
                os.kill(pid, signal.SIGKILL)
            started.kill()
            started.wait()


def environment_of(process: subprocess.Popen[bytes]) -> dict[str, str]:
    entries = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_grandchildren_of_a_killed_process_are_ended(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    parent, other = start(), start()
    environment, (grandchild,) = environment_of(parent), children(parent.pid)
    parent.kill()
    parent.wait()
    assert is_running(grandchild)
    assert end_offspring(environment) == 1
    wait_until(lambda: not is_running(grandchild), 10)
    assert is_running(other.pid), "another worker's"
    assert end_offspring(environment) == 0


def test_a_worker_that_does_not_read_its_socket_ends_when_it_is_left_alone(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    code = (
        "import sys; from conch.engines import offspring; offspring._GRACE_S = 0.1;"
        "offspring.end_when_left_alone(int(sys.argv[1]));"
    )
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            worker = start(code, str(theirs.fileno()), pass_fds=[theirs.fileno()])
        (child,) = children(worker.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.3)
    assert worker.wait(10) != 0
    wait_until(lambda: not is_running(child), 10)


# --- which Python ---------------------------------------------------------------------------------------------------


def test_only_these_runtimes_have_a_python_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/opt/vllm/bin/python")
    for runtime in Runtime:
        own = runtime in (Runtime.VLLM, Runtime.LLMAPI)
        assert engine_command(runtime, "a.b", ["1"])[0] == ("/opt/vllm/bin/python" if own else sys.executable)
    monkeypatch.setenv(VARIABLE, "")
    assert engine_command(Runtime.VLLM, "a.b", ["1"]) == [sys.executable, "-m", "a.b", "1"]


def test_conch_is_found_in_a_python_that_does_not_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, sys.executable)
    (tmp_path / "shown.py").write_text("import sys, conch; print(__name__, sys.argv, conch.__file__, sys.path[-1])")
    command = engine_command(Runtime.VLLM, "shown", ["7", "x y"])
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    conch = ROOT / "src" / "conch" / "__init__.py"
    assert found == f"__main__ ['{tmp_path}/shown.py', '7', 'x y'] {conch} {ROOT / 'src'}\n"


def test_versions_are_read_without_an_import(tmp_path: Path) -> None:
    assert package_version_in(Path(sys.executable), "no_such_package") is None
    assert package_version_in(Path(sys.executable), "numpy") is not None
    with pytest.raises(OSError, match="No such file"):
        package_version_in(tmp_path / "python", "vllm")


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(RepositoryError, match=r"^no_such_package 1\.0 is needed, and it is not installed") as caught:
        require_package("no_such_package", "1.0")
    assert caught.value.mend.startswith(f"Name the Python of an environment that has it with {VARIABLE}")


# --- a worker with vLLM that is not there (tests/fakes) -------------------------------------------------------------


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def engine(tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessEngine]:
    monkeypatch.setattr(process, "_PAUSES_S", (0.02,))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "fakes"))
    spec = EngineSpec.model_validate({"runtime": "vllm", "max_seq_len": 10_000, "step_timeout_s": 1})
    engine = ProcessEngine(tmp_path, spec, sink)
    yield engine
    engine.close()


def worker_of(engine: ProcessEngine) -> int:
    assert engine._link is not None
    return engine._link.pid


def test_an_engine_on_an_event_loop_in_a_process(engine: ProcessEngine, sink: Sink) -> None:
    for number in range(1, 6):
        engine.submit(generation_request(number, [1, 2], max_tokens=number))
    for number in range(1, 6):
        assert sink.wait_end(number) == (list(range(100, 100 + number)), "length")
    sink.wait(lambda: bool(sink.states) and sink.states[-1].prefix_query_tokens == 30)
    assert sink.states[-1].kv_cache_usage == 0


def test_a_killed_worker_ends_its_requests_and_is_replaced(engine: ProcessEngine, sink: Sink) -> None:
    engine.submit(generation_request(1, [1], max_tokens=9_000))
    sink.wait(lambda: len(sink.ids(1)) > 3)
    pid = worker_of(engine)
    os.kill(pid, signal.SIGKILL)
    ended = sink.wait_end(1)[1]
    assert isinstance(ended, UnavailableError)
    assert str(ended) == "the engine process ended (signal 9)"
    wait_until(lambda: engine._link is not None and engine._link.pid != pid, 60)
    engine.submit(generation_request(2, [1], max_tokens=2))
    assert sink.wait_end(2) == ([100, 101], "length")


def test_a_worker_that_hangs_is_replaced(engine: ProcessEngine, sink: Sink) -> None:
    engine.submit(generation_request(1, [1], max_tokens=9_000))
    sink.wait(lambda: len(sink.ids(1)) > 3)
    os.kill(worker_of(engine), signal.SIGSTOP)
    ended = sink.wait_end(1)[1]
    assert isinstance(ended, UnavailableError)
    assert str(ended) == "the engine stopped answering for 1 s"


def test_a_cancelled_request_is_heard_of_no_more(engine: ProcessEngine, sink: Sink) -> None:
    engine.submit(generation_request(1, [1], max_tokens=9_000))
    sink.wait(lambda: len(sink.ids(1)) > 3)
    engine.cancel(1)
    engine.submit(generation_request(2, [1], max_tokens=3))
    assert sink.wait_end(2)[1] == "length"
    heard = len(sink.ids(1))
    engine.submit(generation_request(3, [1], max_tokens=3))
    sink.wait_end(3)
    assert len(sink.ids(1)) == heard
    assert sink.end(1) is None
