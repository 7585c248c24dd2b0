"""Clients that go away in the middle, and an engine that does: nothing hangs, nothing is computed for nobody."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from by_design import RUNTIME
from server_processes import Server, running_server, wait_until
from triton_calls import TIMEOUT_S, arrays_of, ask, assert_clean, generate, grpc_stub, message_of, read

from conch.contract import ENGINE, ENSEMBLE, MODEL_NAMES, WORKER_MODULE
from conch.metric_table import KV_USAGE, RUNNING, WAITING
from conch.server import probe, procfs
from conch.spec import Runtime

pytestmark = pytest.mark.e2e

END = {"temperature": 0.0, "end_id": -1}
ENSEMBLE_LONG = {"text_input": "Once upon a time", "max_tokens": 8000, "stream": True, **END}
ENGINE_LONG = {"input_ids": np.array([[504, 3575, 282]], np.int32), "input_lengths": 3, "request_output_len": 8000}
ENGINE_LONG |= {"streaming": True, **END}
GOOD = {"text_input": "The capital of France is", "max_tokens": 4}
ERRORS_OF_A_DEAD_ENGINE = ["UNAVAILABLE: the engine "]
if RUNTIME is Runtime.TENSORRTLLM:  # whose backend has one code for everything
    ERRORS_OF_A_DEAD_ENGINE.append("INTERNAL: the engine failed: Executor failed")
IDLE_WITHIN_S = 10  # much less than the answers that nobody waits for would take
REPAIRED_WITHIN_S = 30
LEAVERS = 20
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


def worker_of(server: Server) -> procfs.Process:
    """The engine's own process: a child of the stub of llama_engine.

    Raises:
        LookupError: there is none.
    """
    triton = server.state.triton
    assert triton is not None
    for stub in procfs.children(triton.pid):
        for child in procfs.children(stub.pid):
            if WORKER_MODULE in procfs.arguments(child.pid):
                return child
    raise LookupError("no engine worker")


def cpu_ticks(pid: int) -> int:
    """Processor time that a process has used, in clock ticks of a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_until_idle(server: Server, within_s: float = IDLE_WITHIN_S) -> None:
    """Until the engine's process uses less than a twentieth of a processor over a second."""
    pid = worker_of(server).pid

    def idle() -> bool:
        before = cpu_ticks(pid)
        time.sleep(1)
        return cpu_ticks(pid) - before < 5

    wait_until(idle, within_s)


def leave_grpc(server: Server, model: str, fields: dict[str, Any], pieces: int, wait_s: float) -> None:
    """Cancel a stream after some pieces."""
    with grpc_stub(server) as stub:
        call = _begun(stub, model, fields, pieces)
        time.sleep(wait_s)
        call.cancel()


def drop_grpc(server: Server, model: str, fields: dict[str, Any], pieces: int, wait_s: float) -> None:
    """Close the connection under a stream."""
    with grpc_stub(server) as stub:
        _begun(stub, model, fields, pieces)
        time.sleep(wait_s)


def _begun(stub: Any, model: str, fields: dict[str, Any], pieces: int) -> Any:
    call = stub.ModelStreamInfer(iter([message_of(model, arrays_of(fields))]), timeout=TIMEOUT_S)
    for _ in range(pieces):
        assert not next(call).error_message
    return call


def close_http(server: Server, model: str, fields: dict[str, Any], pieces: int, wait_s: float) -> None:
    """Close the connection in order."""
    with _begun_http(server, model, fields, pieces):
        time.sleep(wait_s)


def reset_http(server: Server, model: str, fields: dict[str, Any], pieces: int, wait_s: float) -> None:
    """Break the connection."""
    with _begun_http(server, model, fields, pieces) as connection:
        time.sleep(wait_s)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _begun_http(server: Server, model: str, fields: dict[str, Any], pieces: int) -> socket.socket:
    values = {n: v.reshape(-1).tolist() if isinstance(v, np.ndarray) else v for n, v in fields.items()}
    body = json.dumps(values).encode()
    head = f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((server.host, server.http_port), timeout=TIMEOUT_S)
    connection.sendall(head.encode() + body)
    seen = b""
    while seen.count(b"data: ") < pieces:
        received = connection.recv(65536)
        assert received, "the server closed the connection"
        seen += received
    assert b'"error"' not in seen
    return connection


def leave_at_random(server: Server, model: str, fields: dict[str, Any]) -> None:
    """Many clients at once go away in every way, before the first piece, at it, or later."""
    ways = [leave_grpc, drop_grpc, close_http, reset_http]
    rng = random.Random(5)
    plans = [(ways[n % len(ways)], rng.choice((0, 0, 1, 2, 5, 9)), rng.uniform(0, 0.5)) for n in range(LEAVERS)]
    with ThreadPoolExecutor(LEAVERS) as pool:
        for done in [pool.submit(way, server, model, fields, pieces, wait_s) for way, pieces, wait_s in plans]:
            done.result(TIMEOUT_S)


def assert_well(server: Server, worker: procfs.Process) -> None:
    """It answers, and nothing of it was started anew."""
    assert "Paris" in ask(server, ENSEMBLE.name, GOOD).text
    assert "Paris" in generate(server, ENSEMBLE.name, GOOD).text
    assert worker_of(server) == worker
    assert server.state.repairs == 0
    assert all(probe.model_ready(server.host, server.http_port, name) for name in MODEL_NAMES)


@pytest.mark.parametrize(("model", "fields"), [(ENGINE.name, ENGINE_LONG), (ENSEMBLE.name, ENSEMBLE_LONG)])
def test_the_engine_is_idle_after_its_clients_went_away(server: Server, model: str, fields: dict[str, Any]) -> None:
    worker = worker_of(server)
    leave_at_random(server, model, fields)
    wait_until_idle(server)
    assert_well(server, worker)


def gauges(server: Server) -> dict[str, float]:
    """What the engine says that it has, and holds."""
    with urllib.request.urlopen(f"http://{server.host}:{server.metrics_port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    names = [m.name for m in (RUNNING, WAITING, KV_USAGE)]
    return {n: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{n}{{")) for n in names}


def test_nothing_is_left_of_200_streams_half_of_which_were_cut_off(server: Server) -> None:
    """0 running, 0 waiting, and the KV cache as it was."""
    wait_until(lambda: gauges(server)[RUNNING.name] == 0, IDLE_WITHIN_S)
    before = gauges(server)
    rng = random.Random(9)
    ways = [leave_grpc, drop_grpc, close_http, reset_http]
    busiest: list[float] = []

    def one(number: int) -> None:
        fields = {**ENSEMBLE_LONG, "text_input": f"Story number {number}: once upon a time"}
        if number % 2:
            ways[number // 2 % len(ways)](server, ENSEMBLE.name, fields, rng.choice((0, 1, 3)), rng.uniform(0, 1))
        else:
            reply = ask(server, ENSEMBLE.name, {**fields, "max_tokens": 12})
            assert (reply.error, reply.finish_reason) == ("", "length")
            busiest.append(gauges(server)[WAITING.name])

    with ThreadPoolExecutor(200) as pool:
        for done in [pool.submit(one, number) for number in range(200)]:
            done.result(TIMEOUT_S)
    assert max(busiest) > 0, "there were more than the engine computes at a time"
    wait_until(lambda: gauges(server) == before, IDLE_WITHIN_S)
    wait_until_idle(server)


@pytest.fixture(scope="module")
def own(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own, to be killed."""
    with running_server(server.repository, tmp_path_factory.mktemp("own")) as own:
        yield own


def test_an_engine_that_dies_ends_its_streams_and_comes_back(own: Server) -> None:
    """Every stream ends with an error of the engine, none hangs, and the model answers again without a person."""
    streams = 16
    worker = worker_of(own)
    with grpc_stub(own) as stub, ThreadPoolExecutor(streams + 1) as pool:
        calls = [
            stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of(ENSEMBLE_LONG))]), timeout=TIMEOUT_S)
            for _ in range(streams)
        ]
        assert not [first.error_message for first in pool.map(next, calls) if first.error_message]
        over_http = pool.submit(generate, own, ENSEMBLE.name, ENSEMBLE_LONG, True)
        os.kill(worker.pid, signal.SIGKILL)
        replies = list(pool.map(read, calls))
        last = over_http.result(TIMEOUT_S)
    for reply in (*replies, last):
        assert any(error in reply.error for error in ERRORS_OF_A_DEAD_ENGINE)
        assert_clean(reply.error)
    assert all(reply.status == "OK" for reply in replies), "none ran into its deadline"
    wait_until(lambda: "Paris" in ask(own, ENSEMBLE.name, GOOD).text, REPAIRED_WITHIN_S)
    assert not worker.alive
    assert worker_of(own) != worker
    assert own.state.repairs == 0, "the server itself went on"
    assert "Paris" in generate(own, ENSEMBLE.name, GOOD).text
