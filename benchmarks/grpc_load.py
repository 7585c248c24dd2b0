"""A gRPC load generator that takes next to no processor time, so that what is measured is the server.

All requests of a run share one ModelStreamInfer call, as a gateway would do it; messages are not parsed while the clock
runs, only searched for the mark of a final response. Its own processor time is part of every result.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from tritonclient.grpc import service_pb2 as pb

from conch.contract import END_ID, ENSEMBLE, MAX_TOKENS, STREAM, TEXT_INPUT, TEXT_OUTPUT, TensorSpec

_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
# parameters["triton_final_response"] = {bool_param: true}, as it stands in a serialized response.
_FINAL_MARK = b"triton_final_response\x12\x02\x08\x01"


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


def run_load(target: str, prompts: Sequence[str], concurrency: int, max_tokens: int, *, stream: bool) -> LoadResult:
    """Closed loop: at most ``concurrency`` requests at a time, each with exactly ``max_tokens``, greedy.

    Args:
        target: host:port of Triton's gRPC.

    Raises:
        RuntimeError: a response is an error.
    """
    bodies = [_request(i, text, max_tokens, stream) for i, text in enumerate(prompts)]
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    received: list[tuple[float, bytes]] = []
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        call = channel.stream_stream(_METHOD)  # no serializers: bytes in, bytes out
        responses = call(iter(outbox.get, None))
        sent_at: list[float] = []
        started, cpu = time.perf_counter(), time.process_time()
        finished = 0
        while finished < len(bodies):
            while len(sent_at) < min(len(bodies), finished + concurrency):
                outbox.put(bodies[len(sent_at)])
                sent_at.append(time.perf_counter())
            message = next(responses)
            received.append((time.perf_counter(), message))
            finished += _FINAL_MARK in message
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        outbox.put(None)
    return _digest(received, sent_at, wall_s, cpu_s)


def _digest(received: list[tuple[float, bytes]], sent_at: list[float], wall_s: float, cpu_s: float) -> LoadResult:
    texts: list[list[bytes]] = [[] for _ in sent_at]
    ttft_ms = [0.0] * len(sent_at)
    for when, message in received:
        response = pb.ModelStreamInferResponse.FromString(message)
        if response.error_message:
            raise RuntimeError(f"the server answered: {response.error_message}")
        index = int(response.infer_response.id)
        if not texts[index]:
            ttft_ms[index] = (when - sent_at[index]) * 1e3
        names = [o.name for o in response.infer_response.outputs]
        raw = response.infer_response.raw_output_contents[names.index(TEXT_OUTPUT.name)]
        texts[index].append(raw[4:])  # a BYTES element: 4 bytes of length, then the text
    return LoadResult(wall_s, cpu_s, ttft_ms, len(received), [b"".join(t).decode() for t in texts])


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
