"""A thousand mutated requests over HTTP and gRPC: nothing dies, nothing hangs, and every refusal says why."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from fuzz_cases import GOOD, STREAM_INFER, Case, GrpcCase, HttpCase, cases
from server_processes import Server
from triton_calls import generate
from tritonclient.grpc import service_pb2

from conch.contract import ENSEMBLE, MODEL_NAMES, STAGES, TWIN_STAGES
from conch.server import procfs

pytestmark = pytest.mark.e2e

COUNT = int(os.environ.get("CONCH_FUZZ_CASES", "1000"))
SEED = int(os.environ.get("CONCH_FUZZ_SEED", "20"))
BATCH, AT_ONCE, DEADLINE_S = 50, 4, 30
_SERVICE = "/inference.GRPCInferenceService/"

# Faults of Triton 2.51's own: it answers so before a model of Conch sees the request, or instead of it.
_TRITONS_OWN_500 = (
    r"^failed to parse the request JSON buffer: ",  # not JSON
    r"attempt to access JSON non-",  # a value of another kind than the field's, or a number too large for it
    r"^parameter key '.*' was not found in the JSON$",  # a key that is there twice
    r"^Unable to parse 'data': Shape does not match true shape of 'data' field$",
    r"^HTTP end point doesn't support models with decoupled transaction policy$",  # 501, and right
    r"^Unable to parse request$",  # gRPC: no protobuf
    r"^Unsupported compression type$",
    r"^string correlation ID cannot be longer than \d+ characters$",
    r"DEADLINE_EXCEEDED: timeout_ms of \d+ (has passed|cannot be met: .*)$",  # 503: what the case asked for
)

_OURS = re.compile(r"(?:^|, |: )(INVALID_ARGUMENT|UNSUPPORTED|NOT_FOUND|FAILED_PRECONDITION): ")
_INTERNAL = re.compile(r"\bINTERNAL\b|internal error", re.IGNORECASE)
_OF_THE_INSIDE = ("Traceback", 'File "', ".py", "Error:", "  At:", "/src/", "0x7f")
_FIELDS = {t.name for m in (*STAGES, *TWIN_STAGES) for t in m.inputs} | {"INPUT_TEXT", "unknown field"}


@dataclass(frozen=True)
class Verdict:
    """What came back.

    Attributes:
        kind: for the statistics: protocol and status.
        errors: texts of errors.
        fault: the server's fault, by its status.
    """

    kind: str
    errors: tuple[str, ...] = ()
    fault: bool = False


def _send_http(server: Server, case: HttpCase) -> Verdict:
    lines = [f"POST {case.path} HTTP/1.1", f"Host: {server.host}", "Connection: close"]
    lines += [f"Content-Length: {len(case.body) if case.claimed is None else case.claimed}"]
    lines += [f"{name}: {value}" for name, value in case.headers.items()]
    with socket.create_connection((server.host, server.http_port), timeout=DEADLINE_S) as connection:
        try:
            connection.sendall("\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + case.body)
            connection.shutdown(socket.SHUT_WR)  # a server that waits for more bytes must not wait for ever
        except OSError:
            pass  # it has answered already
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, ConnectionResetError):
            return Verdict("HTTP closed")  # what is no HTTP is not answered
    text = body.decode("utf-8", "backslashreplace")
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")] or [text]
    return Verdict(f"HTTP {response.status}", tuple(_errors(events, response.status)), response.status >= 500)


def _errors(events: list[str], status: int) -> Iterator[str]:
    for event in events:
        try:
            content = json.loads(event)
        except ValueError:
            if status == 200:
                assert not event.strip() or "Inference-Header" in event or event.startswith("{"), event[:300]
            yield event  # a page of the HTTP library's
            continue
        if "error" in content:
            yield str(content["error"])


def _send_grpc(channel: grpc.Channel, case: GrpcCase) -> Verdict:
    def same(data: bytes) -> bytes:
        return data

    if case.method == STREAM_INFER:
        kind = service_pb2.ModelStreamInferResponse
        call = channel.stream_stream(_SERVICE + case.method, same, kind.FromString)
        replies = call(iter([case.data]), timeout=DEADLINE_S)
    else:
        call = channel.unary_unary(_SERVICE + case.method, same, service_pb2.ModelInferResponse.FromString)
        replies = None
    errors = []
    try:
        for reply in replies if replies is not None else [call(case.data, timeout=DEADLINE_S)]:
            if replies is not None and reply.error_message:
                errors.append(reply.error_message)
    except grpc.RpcError as error:
        code = error.code()
        if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):  # it hung, or died
            return Verdict("failed", (f"{code.name}: {error.details()}",), fault=True)
        fault = code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        return Verdict(f"gRPC {code.name}", (*errors, str(error.details())), fault)
    return Verdict("gRPC error in the stream" if errors else "gRPC OK", tuple(errors))


def _judge(verdict: Verdict) -> list[str]:
    """What is wrong with an answer."""
    wrong = []
    known = verdict.errors and any(re.search(p, e) for p in _TRITONS_OWN_500 for e in verdict.errors)
    if verdict.fault and not known:
        wrong.append("a fault of the server's without a known cause")
    for error in verdict.errors:
        wrong += [f"shows {sign}" for sign in _OF_THE_INSIDE if sign in error]
        if _INTERNAL.search(error):
            wrong.append("INTERNAL")
        if _OURS.search(error) and not any(field in error for field in _FIELDS):
            wrong.append("names no field")
    return wrong


def _processes(server: Server) -> set[procfs.Process]:
    """tritonserver, its stages, and the engine's worker."""
    triton = server.state.triton
    assert triton is not None
    found, todo = {triton}, [triton]
    while todo:
        children = set(procfs.children(todo.pop().pid)) - found
        found |= children
        todo += children
    return found


def test_a_thousand_mutated_requests(server: Server) -> None:
    usual = generate(server, ENSEMBLE.name, GOOD).text
    before = _processes(server)
    kinds: Counter[str] = Counter()
    failures = []
    drawn = cases(COUNT, SEED)
    with (
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):

        def send(case: Case) -> Verdict:
            try:
                return _send_http(server, case) if isinstance(case, HttpCase) else _send_grpc(channel, case)
            except (AssertionError, OSError, grpc.RpcError) as error:
                return Verdict("failed", (f"{type(error).__name__}: {error}"[:500],), fault=True)

        for start in range(0, COUNT, BATCH):
            batch = drawn[start : start + BATCH]
            for number, (case, verdict) in enumerate(zip(batch, threads.map(send, batch), strict=True), start):
                kinds[verdict.kind] += 1
                wrong = _judge(verdict)
                if wrong:
                    failures.append(f"case {number}: {wrong}: {[e[:300] for e in verdict.errors]}: {str(case)[:700]}")
            assert generate(server, ENSEMBLE.name, GOOD).text == usual, f"after case {start + len(batch)}"
    print(dict(kinds))
    assert not failures, f"{len(failures)} of {COUNT} (seed {SEED}):\n" + "\n".join(failures[:20])
    assert _processes(server) == before, "a process of the server's has died, or there is a new one"
    # The mutations are neither all refused by Triton nor all harmless.
    assert {"HTTP 200", "HTTP 400", "gRPC OK", "gRPC error in the stream"} <= set(kinds)


def test_the_cases_are_the_same_every_time() -> None:
    assert cases(50, 1) == cases(50, 1) != cases(50, 2)
    assert len(MODEL_NAMES) > 5
