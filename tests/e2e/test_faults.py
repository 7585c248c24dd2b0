"""Every process of a server is killed or stopped under load: nothing hangs, it says so, and it comes back by itself."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from server_processes import Server, build_repository, run_command, running_server, wait_until
from triton_calls import Reply, arrays_of, ask, assert_clean, grpc_stub, message_of, read

from conch.contract import DETOKENIZER, ENGINE, ENSEMBLE, TOKENIZER, WORKER_MODULE
from conch.repository.artifacts import ENGINE_DIR, GGUF_FILE
from conch.server import probe, procfs
from conch.server.leftovers import as_stub
from conch.server.state import READY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STREAMS = 32
ENDED_WITHIN_S = 5  # after a kill; the promise to clients
REPAIRED_WITHIN_S = 60
STEP_TIMEOUT_S = 3  # of tests/specs/impatient.yaml
DEADLINE_S = 300  # of the streams: none must run into it
TRITONSERVER, WORKER = "tritonserver", "the engine's process"
ENDLESS = {"text_input": "Once upon a time", "max_tokens": 8000, "stream": True, "temperature": 0.0, "end_id": -1}
GOOD = {"text_input": "The capital of France is", "max_tokens": 4}


@pytest.fixture(scope="module")
def repository() -> Path:
    return build_repository("impatient")


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own."""
    with running_server(repository, tmp_path / "run") as server:
        yield server


def pid_of(server: Server, who: str) -> int:
    """Id of one of the server's processes."""
    triton = server.state.triton
    assert triton is not None
    if who == TRITONSERVER:
        return triton.pid
    for child in procfs.children(triton.pid):
        stub = as_stub(child)
        if stub is not None and stub.model == who:
            return child.pid
        if who == WORKER and stub is not None and stub.model == ENGINE.name:
            (worker,) = (p for p in procfs.children(child.pid) if WORKER_MODULE in procfs.arguments(p.pid))
            return worker.pid
    raise LookupError(who)


@contextmanager
def open_streams(server: Server) -> Iterator[list[Future[Reply]]]:
    """Streams that have all begun and would go on for minutes, each read to its end."""
    with grpc_stub(server) as stub, ThreadPoolExecutor(STREAMS) as pool:
        calls = [
            stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of(ENDLESS))]), timeout=DEADLINE_S)
            for _ in range(STREAMS)
        ]
        assert not [first.error_message for first in pool.map(next, calls) if first.error_message]
        yield [pool.submit(read, call) for call in calls]


def assert_ended_as_unavailable(streams: list[Future[Reply]], within_s: float) -> None:
    """All of them, soon, with an error that a client may retry after."""
    deadline = time.monotonic() + within_s
    replies = [stream.result(max(0.0, deadline - time.monotonic())) for stream in streams]
    for reply in replies:
        assert_clean(reply.error)
        refused = "UNAVAILABLE" in reply.error or "is not healthy" in reply.error  # the last of Triton's own
        assert reply.status == "UNAVAILABLE" or (reply.status == "OK" and refused), reply.error


def is_out_of_service(server: Server) -> bool:
    return not probe.model_ready(server.host, server.http_port, ENSEMBLE.name)


def answers(server: Server) -> bool:
    return server.state.phase == READY and "Paris" in ask(server, ENSEMBLE.name, GOOD).text


def status_code(server: Server) -> int:
    ports = [server.http_port, server.grpc_port, server.metrics_port]
    return run_command("status", repository=server.repository, run_dir=server.run_dir.path, ports=ports).returncode


def output(server: Server) -> str:
    return (server.run_dir.path / "output.txt").read_text()


@pytest.mark.parametrize("who", [TOKENIZER.name, ENGINE.name, DETOKENIZER.name, TRITONSERVER])
def test_a_process_that_is_killed_under_load(own: Server, who: str) -> None:
    pid = pid_of(own, who)
    with open_streams(own) as streams:
        os.kill(pid, signal.SIGKILL)
        assert_ended_as_unavailable(streams, ENDED_WITHIN_S)
    wait_until(lambda: is_out_of_service(own), ENDED_WITHIN_S)
    assert status_code(own) == 4
    wait_until(lambda: answers(own), REPAIRED_WITHIN_S)
    assert own.state.repairs == 1
    what = "tritonserver ended by itself (killed by SIGKILL)" if who == TRITONSERVER else f"of {who} (pid {pid}) died"
    assert f"{what}: starting again, repair 1 of at most 3; requests in flight are lost\n" in output(own)
    assert status_code(own) == 0


def test_an_engine_that_is_killed_or_stopped_under_load(own: Server) -> None:
    """The server itself goes on; it is out of service until the engine answers again."""
    for signal_number, within_s, why in (
        (signal.SIGKILL, ENDED_WITHIN_S, "the engine process ended (signal 9)"),
        (signal.SIGSTOP, STEP_TIMEOUT_S + ENDED_WITHIN_S, f"the engine stopped answering for {STEP_TIMEOUT_S} s"),
    ):
        triton, worker = own.state.triton, pid_of(own, WORKER)
        with open_streams(own) as streams:
            os.kill(worker, signal_number)
            assert_ended_as_unavailable(streams, within_s)
            assert all(f"UNAVAILABLE: {why}" in stream.result().error for stream in streams)
        said = f"the engine's process (pid {worker}) died: no requests are taken until a new one answers\n"
        wait_until(lambda said=said: said in output(own), REPAIRED_WITHIN_S)
        wait_until(lambda: answers(own), REPAIRED_WITHIN_S)
        assert (own.state.triton, own.state.repairs) == (triton, 0)
        assert f"{why}; {STREAMS} requests were in flight; a new one is started" in own.run_dir.triton_log.read_text()
    assert output(own).count("the engine answers again after") == 2


def test_an_engine_that_cannot_be_started_again(repository: Path, tmp_path: Path) -> None:
    """It is tried for a while, then the server is started anew, which names what is missing, and ends."""
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    with running_server(copy, tmp_path / "run") as server:
        model = copy / ENGINE.name / str(server.state.release_version) / ENGINE_DIR / GGUF_FILE
        model.unlink()
        os.kill(pid_of(server, WORKER), signal.SIGKILL)
        wait_until(lambda: is_out_of_service(server), ENDED_WITHIN_S)
        assert status_code(server) == 4
        assert server.supervisor.wait(REPAIRED_WITHIN_S + 60) == 1
        assert "the engine's process could not be started for" in output(server)
        assert f"error: {model} is missing\n" in output(server)
        assert "attempt 3 failed, the next one is in 4 s" in server.run_dir.triton_log.read_text()


def test_a_stop_does_not_wait_for_streams_whose_clients_are_gone(own: Server) -> None:
    with grpc_stub(own) as stub:
        calls = [
            stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of(ENDLESS))]), timeout=DEADLINE_S)
            for _ in range(4)
        ]
        for call in calls:
            assert not next(call).error_message
            call.cancel()
    own.supervisor.terminate()
    assert own.supervisor.wait(REPAIRED_WITHIN_S) == 0
    assert "lost" not in output(own), "the patience was used up"
