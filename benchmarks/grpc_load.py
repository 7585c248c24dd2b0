"""A gRPC load generator that takes next to no processor time, so that what is measured is the server.

Every request is a ModelStreamInfer call of its own, on one connection. Messages are not parsed while the clock runs.
Its own processor time is part of every result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

from benchmarks.http2 import Http2Connection, messages
from conch.contract import END_ID, ENSEMBLE, MAX_TOKENS, STREAM, TEXT_INPUT, TEXT_OUTPUT, TensorSpec
from conch.errors import UnavailableError

_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True)
class LoadResult:
    """One run.

    Attributes:
        wall_s: first request sent to last response received.
        cpu_s: processor time of the client.
        ttft_ms: per request, in the order of the prompts.
        responses: messages received.
        texts: the answers.
    """

    wall_s: float
    cpu_s: float
    ttft_ms: list[float]
    responses: int
    texts: list[str]


def connect(target: str) -> Http2Connection:
    """A connection to ``host:port`` of Triton's gRPC."""
    host, _, port = target.partition(":")
    return Http2Connection(host, int(port), _METHOD)


def run_load(
    connection: Http2Connection, prompts: Sequence[str], concurrency: int, max_tokens: int, *, stream: bool
) -> LoadResult:
    """Closed loop: at most ``concurrency`` requests at a time, each with exactly ``max_tokens``, greedy.

    Raises:
        UnavailableError: a response is an error, or a call ended without an answer.
    """
    bodies = [_request(i, text, max_tokens, stream) for i, text in enumerate(prompts)]
    index_of: dict[int, int] = {}
    sent_at: list[float] = []
    first_at: dict[int, float] = {}
    received: dict[int, bytearray] = {}
    started, cpu = time.perf_counter(), time.process_time()
    finished = 0
    while finished < len(bodies):
        while len(sent_at) < min(len(bodies), finished + concurrency):
            call = connection.call(bodies[len(sent_at)])
            index_of[call], received[call] = len(sent_at), bytearray()
            sent_at.append(time.perf_counter())
        for call, data, over in connection.receive():
            if data:
                if call not in first_at:
                    first_at[call] = time.perf_counter()
                received[call] += data
            finished += over
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    texts = [""] * len(bodies)
    ttft_ms = [0.0] * len(bodies)
    responses = 0
    for call, index in index_of.items():
        answer = [_text(message) for message in messages(bytes(received[call]))]
        if not answer:
            raise UnavailableError(f"request {index} ended without an answer")
        responses += len(answer)
        texts[index] = b"".join(answer).decode()
        ttft_ms[index] = (first_at[call] - sent_at[index]) * 1e3
    return LoadResult(wall_s, cpu_s, ttft_ms, responses, texts)


def _text(message: bytes) -> bytes:
    response = pb.ModelStreamInferResponse.FromString(message)
    if response.error_message:
        raise UnavailableError(f"the server answered: {response.error_message}")
    names = [o.name for o in response.infer_response.outputs]
    raw: bytes = response.infer_response.raw_output_contents[names.index(TEXT_OUTPUT.name)]
    return raw[4:]  # a BYTES element: 4 bytes of length, then the text


def _request(index: int, text: str, max_tokens: int, stream: bool) -> bytes:
    request = pb.ModelInferRequest(model_name=ENSEMBLE.name, id=str(index))
    data = text.encode()
    _add(request, TEXT_INPUT, len(data).to_bytes(4, "little") + data)
    _add(request, MAX_TOKENS.public, max_tokens.to_bytes(4, "little"))
    _add(request, END_ID.public, (-1).to_bytes(4, "little", signed=True))
    _add(request, STREAM.public, bytes([stream]))
    serialized: bytes = request.SerializeToString()
    return serialized


def _add(request: pb.ModelInferRequest, spec: TensorSpec, raw: bytes) -> None:
    request.inputs.add(name=spec.name, datatype=spec.dtype.value, shape=[1, 1])
    request.raw_input_contents.append(raw)
