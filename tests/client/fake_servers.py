"""Small real servers that speak Triton's gRPC and HTTP and do what a test tells them to.

A plan is a list of steps, one plan per request; the last plan serves all further requests.
"""

from __future__ import annotations

import json
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor


@dataclass(frozen=True)
class Chunk:
    """A response; with many answers, a list of each."""

    text: str | list[str]
    finish_reason: str | list[str] | None = None
    num_output_tokens: int | list[int] | None = None
    num_input_tokens: int | None = None
    more: dict[str, tuple[str, list[int], list[Any]]] = field(default_factory=dict)  # name -> dtype, shape, elements


@dataclass(frozen=True)
class Fail:
    """An error of a model. Triton 2.51 passes on its text alone: in the stream, or with a 400 over HTTP."""

    message: str


@dataclass(frozen=True)
class Abort:
    """gRPC alone: ends the call with a status, as proxies do, and servers that stop."""

    code: str
    message: str


@dataclass(frozen=True)
class Refuse:
    """An error before any model: text in the stream over gRPC; a status over HTTP."""

    http_status: int
    message: str


@dataclass(frozen=True)
class Hang:
    """Says nothing until the request is given up."""


@dataclass(frozen=True)
class Endless:
    """Goes on and on, until the request is given up."""


@dataclass(frozen=True)
class Raw:
    """HTTP alone: bytes as they are, in the body."""

    data: bytes


@dataclass(frozen=True)
class Drop:
    """HTTP alone: closes the connection in the middle."""


NUMPY = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32}


@dataclass
class Seen:
    """A request as a server saw it. Tensors over gRPC: name -> (dtype, shape, values)."""

    model: str
    version: str
    request_id: str
    tensors: dict[str, Any]
    headers: dict[str, str]
    path: str = ""


@dataclass
class Plans:
    """What to do, and what was seen."""

    plans: list[list[Any]] = field(default_factory=lambda: [[Chunk("ok", "stop")]])
    seen: list[Seen] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    live: bool = True
    ready: bool = True
    restricted: bool = False
    ready_models: tuple[str, ...] = ("ensemble", "llama_pipeline")
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, seen: Seen) -> list[Any]:
        with self.lock:
            self.seen.append(seen)
            self.arrived.set()
            return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]


INDEX = [
    ("ensemble", "1", "READY", ""),
    ("llama_pipeline", "1", "UNAVAILABLE", "unloaded"),
    ("tokenizer", "1", "READY", ""),
]


def bytes_tensor(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, plans: Plans) -> None:
        self.plans = plans

    def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=self.plans.live)

    def ServerReady(self, request, context):
        return pb.ServerReadyResponse(ready=self.plans.ready)

    def ModelReady(self, request, context):
        return pb.ModelReadyResponse(ready=request.name in self.plans.ready_models)

    def ModelMetadata(self, request, context):
        return pb.ModelMetadataResponse(name=request.name, versions=["1", "2"])

    def RepositoryIndex(self, request, context):
        if self.plans.restricted:
            context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'key'")
        models = [pb.RepositoryIndexResponse.ModelIndex(name=n, version=v, state=s, reason=r) for n, v, s, r in INDEX]
        return pb.RepositoryIndexResponse(models=models)

    def ModelStreamInfer(self, requests, context):
        request = next(requests)
        headers = dict(context.invocation_metadata())
        plan = self.plans.next(Seen(request.model_name, request.model_version, request.id, _tensors(request), headers))
        stopped = threading.Event()
        waits = any(isinstance(step, (Hang, Endless)) for step in plan)

        def end() -> None:  # gRPC does not resume a handler whose call was given up, so this says it
            stopped.set()
            if waits:
                self.plans.given_up.set()

        context.add_callback(end)
        for step in plan:
            if isinstance(step, Chunk):
                yield _response(request, step, final=step is plan[-1])
            elif isinstance(step, Fail):
                assert "triton_grpc_error" not in headers, "kills Triton 2.51"
                yield pb.ModelStreamInferResponse(error_message=f"in ensemble 'ensemble', {step.message}")
                return
            elif isinstance(step, Abort):
                context.abort(grpc.StatusCode[step.code], step.message)
            elif isinstance(step, Refuse):
                yield pb.ModelStreamInferResponse(error_message=step.message)
                return
            elif isinstance(step, Hang):
                stopped.wait(10)
            elif isinstance(step, Endless):
                while not stopped.wait(0.005):
                    yield _response(request, Chunk("x"), final=False)


def _tensors(request: Any) -> dict[str, Any]:
    tensors = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            values = [b.decode() for b in deserialize_bytes_tensor(raw)]
        else:
            values = np.frombuffer(raw, NUMPY[tensor.datatype]).tolist()
        tensors[tensor.name] = (tensor.datatype, list(tensor.shape), values)
    return tensors


def _response(request: Any, chunk: Chunk, final: bool) -> Any:
    version = request.model_version or "3"
    answer = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    answer.parameters["triton_final_response"].bool_param = final

    def add(name: str, datatype: str, shape: list[int], values: list[Any]) -> None:
        answer.outputs.add(name=name, datatype=datatype, shape=shape)
        texts = datatype == "BYTES"
        raw = b"".join(map(bytes_tensor, values)) if texts else np.array(values, NUMPY[datatype]).tobytes()
        answer.raw_output_contents.append(raw)

    def add_each(name: str, datatype: str, value: Any) -> None:
        values = value if isinstance(value, list) else [value]
        add(name, datatype, [1, len(values)], values)

    # Triton sends the outputs of an ensemble in an order of its own.
    for name, (datatype, shape, values) in chunk.more.items():
        add(name, datatype, shape, values)
    add_each("OUTPUT_TEXT" if request.model_name == "llama_pipeline" else "text_output", "BYTES", chunk.text)
    if chunk.finish_reason is not None:
        add_each("finish_reason", "BYTES", chunk.finish_reason)
    for name in ("num_input_tokens", "num_output_tokens"):
        if getattr(chunk, name) is not None:
            add_each(name, "INT32", getattr(chunk, name))
    return pb.ModelStreamInferResponse(infer_response=answer)


class GrpcServer:
    """A gRPC server on a free port."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0") -> None:
        self.plans = Plans()
        self._server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(self.plans), self._server)
        add = self._server.add_insecure_port if credentials is None else self._server.add_secure_port
        self.port = add(address, *([] if credentials is None else [credentials]))
        self.url = f"localhost:{self.port}" if credentials else f"127.0.0.1:{self.port}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.server.plans.lock:
            self.server.plans.connections += 1

    def _send(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        plans, path = self.server.plans, self.path
        if path == "/v2/health/live":
            self._send(200 if plans.live else 400)
        elif path == "/v2/health/ready":
            self._send(200 if plans.ready else 400)
        elif path.startswith("/v2/models/") and path.endswith("/ready"):
            self._send(200 if path.split("/")[3] in plans.ready_models else 400)
        elif path.startswith("/v2/models/"):
            self._send(200, b'{"name": "x", "versions": ["1", "2"]}')
        elif path == "/metrics":
            self._send(200, METRICS.encode(), "text/plain")
        else:
            self._send(404, b"<html>no such page</html>")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v2/repository/index" and self.server.plans.restricted:
            self._send(403, b'{"error": "This API is restricted, expecting header \'key\'"}')
            return
        if self.path == "/v2/repository/index":
            index = [dict(zip(("name", "version", "state", "reason"), model, strict=True)) for model in INDEX]
            self._send(200, json.dumps(index).encode())
            return
        parts = self.path[self.path.index("/v2/") :].split("/")
        tensors = json.loads(body)
        version = parts[5] if parts[4] == "versions" else ""
        headers = {key.lower(): value for key, value in self.headers.items()}
        seen = Seen(parts[3], version, tensors.pop("id"), tensors, headers, self.path)
        try:
            self._answer(self.server.plans.next(seen), parts[-1] == "generate_stream", seen)
        except OSError:
            self.server.plans.given_up.set()
            self.close_connection = True

    def _answer(self, plan: list[Any], stream: bool, seen: Seen) -> None:
        self._begun = False
        for step in plan:
            if isinstance(step, Refuse):
                self._send(step.http_status, json.dumps({"error": step.message}).encode())
                return
            if isinstance(step, Hang):
                self.connection.settimeout(10)
                if self.connection.recv(1) == b"":
                    raise OSError("the client went away")
            elif isinstance(step, Drop):
                self._chunk(b"")
                self.close_connection = True
                return
            elif isinstance(step, Raw):
                self._chunk(step.data)
            elif isinstance(step, Fail):
                self._data({"error": f"in ensemble 'ensemble', {step.message}"}, stream, 400)
            elif isinstance(step, Endless):
                while True:
                    self._data(_json(seen, Chunk("x" * 1000)), stream)
            else:
                self._data(_json(seen, step), stream)
        self.wfile.write(b"0\r\n\r\n")

    def _data(self, fields: dict[str, Any], stream: bool, status: int = 200) -> None:
        text = json.dumps(fields, ensure_ascii=False)
        self._chunk((f"data: {text}\n\n" if stream else text).encode(), status, stream)

    def _chunk(self, data: bytes, status: int = 200, stream: bool = True) -> None:
        if not self._begun:
            self._begun = True
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8" if stream else "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _json(seen: Seen, chunk: Chunk) -> dict[str, Any]:
    name = "OUTPUT_TEXT" if seen.model == "llama_pipeline" else "text_output"
    fields = {
        "finish_reason": chunk.finish_reason,
        "num_input_tokens": chunk.num_input_tokens,
        "num_output_tokens": chunk.num_output_tokens,
    }
    return {
        "id": seen.request_id, "model_name": seen.model, "model_version": seen.version or "3", name: chunk.text,
        **{key: value for key, value in fields.items() if value is not None},
        **{key: values[0] if len(values) == 1 else values for key, (_, _, values) in chunk.more.items()},
    }  # fmt: skip


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, plans: Plans, context: Any) -> None:
        self.plans = plans
        self._open: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.append(request)
        super().process_request(request, client_address)

    def drop_connections(self) -> None:
        """Close every connection, as a server does with idle ones."""
        for connection in self._open:
            self.shutdown_request(connection)
        self._open.clear()


class HttpServer:
    """An HTTP server on a free port; /metrics is there too."""

    def __init__(self, context: Any = None) -> None:
        self.plans = Plans()
        self._server = _HttpServer(self.plans, context)
        self.port = self._server.server_address[1]
        self.url = f"https://localhost:{self.port}" if context else f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def drop_connections(self) -> None:
        self._server.drop_connections()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()


METRICS = """# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="ensemble",version="1"} 9
nv_inference_request_success{model="tokenizer",version="1"} 11

conch_ttft_ms_bucket{le="+Inf",note="a \\"b\\\\c\\", d"} 3e2 1700000000
conch_up 1
"""
