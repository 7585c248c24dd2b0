"""The twins of ensemble on a real server whose engine repeats the prompt, at a set pace."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from server_processes import Server, echo_spec, running_server, wait_until, write_echo_release
from triton_calls import TIMEOUT_S, arrays_of, assert_clean, generate, grpc_stub, infer, message_of
from tritonclient.grpc import InferResult

from conch.contract import ENSEMBLE, ENSEMBLE_U32, TWINS, UNARY, UNARY_IN_FLIGHT, UNARY_SCALAR, UNARY_U32, model_names
from conch.server import probe

pytestmark = pytest.mark.e2e

ITL_MS = 20.0
LONG = {"text_input": "hello", "max_tokens": 500_000}  # hours
CALLS = 64


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that repeats the prompt, for all tests of this module."""
    folder = tmp_path_factory.mktemp("twins")
    write_echo_release(folder / "repository", echo_spec(itl_ms=ITL_MS, max_batch_size=256), folder / "scratch")
    with running_server(folder / "repository", folder / "run") as server:
        yield server


@pytest.fixture(autouse=True)
def _engine_is_idle_after(echo: Server) -> Iterator[None]:
    yield
    wait_until(lambda: rows_in_engine(echo) == 0, 30)


def rows_in_engine(server: Server) -> int | None:
    return probe.rows_in_engine(server.host, server.metrics_port)


def infer_text(server: Server, model: str, prompt: str, max_tokens: int) -> tuple[int, str]:
    """HTTP infer: status, and the text or the error."""
    shape, integer = ([1], "INT32") if model == UNARY_SCALAR.name else ([1, 1], "INT32")
    if model == UNARY_U32.name:
        integer = "UINT32"
    body = {
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": shape, "data": [prompt]},
            {"name": "max_tokens", "datatype": integer, "shape": shape, "data": [max_tokens]},
        ]
    }
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/v2/models/{model}/infer", body=json.dumps(body))
        response = connection.getresponse()
        data = json.loads(response.read())
    finally:
        connection.close()
    if response.status != 200:
        return response.status, data["error"]
    (text,) = [output["data"][0] for output in data["outputs"] if output["name"] == "text_output"]
    return response.status, text


def repeated(prompt: str, count: int) -> str:
    return (prompt * count)[:count]


@pytest.mark.parametrize("model", [UNARY.name, UNARY_U32.name, UNARY_SCALAR.name])
def test_many_calls_at_a_time_each_get_their_answer_or_their_error(echo: Server, model: str) -> None:
    plans = [(f"prompt {number} ", 0 if number % 8 == 5 else 20 + number) for number in range(CALLS)]
    with ThreadPoolExecutor(CALLS) as pool:
        answers = list(pool.map(lambda plan: infer_text(echo, model, *plan), plans))
    for (prompt, count), (status, text) in zip(plans, answers, strict=True):
        if count == 0:
            assert status == 400
            assert "INVALID_ARGUMENT: max_tokens must be a finite number >= 1, got 0" in text
            assert_clean(text)
        else:
            assert (status, text) == (200, repeated(prompt, count))


def test_long_answers_hold_nobody_up_and_end_when_their_clients_go(echo: Server) -> None:
    with grpc_stub(echo) as stub:
        calls = [
            stub.ModelInfer.future(message_of(UNARY.name, arrays_of(LONG)), timeout=TIMEOUT_S)
            for _ in range(UNARY_IN_FLIGHT - 1)
        ]
        wait_until(lambda: rows_in_engine(echo) == len(calls), 30)
        assert infer_text(echo, UNARY_U32.name, "abc", 5) == (200, "abcab")
        for call in calls[:-1]:
            call.cancel()
        wait_until(lambda: rows_in_engine(echo) == 1, 30)
        assert not calls[-1].done()
        calls[-1].cancel()


def test_a_deadline_of_grpc_ends_the_request(echo: Server) -> None:
    with grpc_stub(echo) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            stub.ModelInfer(message_of(UNARY.name, arrays_of(LONG)), timeout=1)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_errors_over_unary_grpc_have_their_code(echo: Server) -> None:
    codes = {
        "INVALID_ARGUMENT: stream must be false": ({"stream": True}, grpc.StatusCode.INVALID_ARGUMENT),
        "UNSUPPORTED: lora_task_id": ({"lora_task_id": np.array([[7]], np.uint64)}, grpc.StatusCode.UNIMPLEMENTED),
        "DEADLINE_EXCEEDED: timeout_ms": ({"timeout_ms": 200, "max_tokens": 900}, grpc.StatusCode.UNAVAILABLE),
    }
    with grpc_stub(echo) as stub:
        for text, (fields, code) in codes.items():
            message = message_of(UNARY.name, arrays_of({"text_input": "a", **fields}))
            with pytest.raises(grpc.RpcError) as raised:
                stub.ModelInfer(message, timeout=TIMEOUT_S)
            assert raised.value.code() is code
            assert raised.value.details().startswith(text)


def test_stop_by_request_id(echo: Server) -> None:
    with grpc_stub(echo) as stub:
        call = stub.ModelInfer.future(message_of(UNARY.name, arrays_of(LONG), "mine"), timeout=TIMEOUT_S)
        wait_until(lambda: rows_in_engine(echo) == 1, 30)
        stub.ModelInfer(message_of(UNARY.name, arrays_of({"text_input": "x", "stop": True}), "mine"))
        assert InferResult(call.result()).as_numpy("finish_reason").tolist() == [[b"cancelled"]]


def test_a_stream_of_the_unsigned_twin_is_that_of_ensemble(echo: Server) -> None:
    fields = {"text_input": "Grüße, 日本! ", "stream": True, "return_num_output_tokens": True}
    with grpc_stub(echo) as stub:
        expected = infer(stub, ENSEMBLE.name, {**fields, "max_tokens": 40})
        found = infer(stub, ENSEMBLE_U32.name, {**fields, "max_tokens": np.array([[40]], np.uint32)})
    assert found.text == expected.text
    assert found.total("num_output_tokens") == expected.total("num_output_tokens") == 40
    assert found.finish_reason == expected.finish_reason == "length"
    assert all(response["text_output"].shape == (1,) for response in found.responses)
    assert len(found.responses) > 1


def test_a_stop_of_the_server_waits_for_every_twin(tmp_path: Path) -> None:
    write_echo_release(tmp_path / "repository", echo_spec(itl_ms=ITL_MS), tmp_path / "scratch")
    models = (UNARY.name, UNARY_U32.name, UNARY_SCALAR.name)
    with ExitStack() as stack:
        server = stack.enter_context(running_server(tmp_path / "repository", tmp_path / "run"))
        pool = stack.enter_context(ThreadPoolExecutor(3 * len(models) + 3))
        answers = [pool.submit(infer_text, server, model, "abc", 200) for model in models for _ in range(3)]
        body = {"text_input": "abc", "max_tokens": 200}
        streams = [pool.submit(generate, server, ENSEMBLE_U32.name, body, False) for _ in range(3)]
        wait_until(lambda: rows_in_engine(server) == len(answers) + len(streams), 30)
        server.supervisor.send_signal(signal.SIGTERM)
        assert {answer.result() for answer in answers} == {(200, repeated("abc", 200))}
        assert {stream.result().text for stream in streams} == {repeated("abc", 200)}
        assert server.supervisor.wait(60) == 0


def test_a_server_without_twins(tmp_path: Path) -> None:
    spec = echo_spec()
    without: dict[str, Any] = {"serving": spec.serving.model_copy(update={"twins": False})}
    write_echo_release(tmp_path / "repository", spec.model_copy(update=without), tmp_path / "scratch")
    with running_server(tmp_path / "repository", tmp_path / "run") as server:
        assert all(probe.model_ready(server.host, server.http_port, name) for name in model_names(twins=False))
        for twin in (UNARY, *TWINS):
            assert not probe.model_ready(server.host, server.http_port, twin.name)
        assert generate(server, ENSEMBLE.name, {"text_input": "abc", "max_tokens": 3}).text == "abc"
