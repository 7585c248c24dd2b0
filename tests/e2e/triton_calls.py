"""Requests to a running tritonserver, as the protocols carry them: nothing is checked or mended on the way."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from server_processes import Server
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

TIMEOUT_S = 120
Arrays = dict[str, NDArray[Any]]
GREEDY = {"temperature": 0.0}
_DTYPES = {bool: np.bool_, int: np.int32, float: np.float32}
_UNSIGNED = ("seed", "random_seed")


@dataclass
class Reply:
    """All that came for one request.

    Attributes:
        responses: the outputs of each response, in order: name -> array over gRPC, name -> value over HTTP.
        error: text of the error; empty where there was none.
        status: HTTP status, or name of the gRPC status; over gRPC ``OK`` with an error means that it came in the
            stream.
    """

    responses: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    status: int | str = "OK"

    @property
    def text(self) -> str:
        """The pieces joined; of row 0 where there are several."""
        return "".join(piece for piece in self.pieces)

    @property
    def pieces(self) -> list[str]:
        """Text of each response."""
        return [_text(r["text_output"] if "text_output" in r else r["OUTPUT_TEXT"]) for r in self.responses]

    @property
    def ids(self) -> list[int]:
        """Token ids, of the engine's answers."""
        return [int(i) for r in self.responses for i in np.asarray(r["output_ids"]).reshape(-1)]

    @property
    def finish_reason(self) -> str:
        """Of the last response."""
        return _text(self.responses[-1]["finish_reason"])

    def total(self, name: str) -> int:
        """Sum over the responses of an output that is a number."""
        return sum(int(np.asarray(r[name]).reshape(-1)[0]) for r in self.responses)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    data = value.reshape(-1)[0]
    return data.decode("utf-8") if isinstance(data, bytes) else str(data)


def column(*values: Any) -> NDArray[Any]:
    """One value for each row: shape (rows, 1)."""
    if isinstance(values[0], (str, bytes)):
        data = [v.encode() if isinstance(v, str) else v for v in values]
        return np.array(data, dtype=np.object_).reshape(-1, 1)
    return np.array(values, dtype=_DTYPES[type(values[0])]).reshape(-1, 1)


def arrays_of(fields: Mapping[str, Any]) -> Arrays:
    """Fields of a request with one row; an array is taken as it is, a list of texts becomes (1, n)."""
    made: Arrays = {}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            made[name] = value
        elif isinstance(value, list):
            made[name] = column(*value).reshape(1, -1)
        elif name in _UNSIGNED:
            made[name] = np.array([[value]], dtype=np.uint64)
        else:
            made[name] = column(value)
    return made


def version_folder(server: Server, model: str) -> Path:
    """Folder of the version that is served."""
    return server.repository / model / str(server.state.release_version)


def chat(question: str) -> str:
    """The messages field: one question of a user."""
    return json.dumps([{"role": "user", "content": question}])


def message_of(model: str, arrays: Arrays, request_id: str = "") -> service_pb2.ModelInferRequest:
    """A ModelInferRequest; the arrays' own dtypes and shapes."""
    message = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for name, array in arrays.items():
        message.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        if array.dtype == np.object_:
            array = serialize_byte_tensor(array)
        message.raw_input_contents.append(b"".join(array.reshape(-1)) if array.dtype == np.object_ else array.tobytes())
    return message


@contextmanager
def grpc_stub(server: Server) -> Iterator[Any]:
    """A stub on a channel of its own."""
    with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer(stub: Any, model: str, fields: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Reply:
    """Send one request and read every response, over ModelStreamInfer."""
    return read(stub.ModelStreamInfer(iter([message_of(model, arrays_of(fields))]), timeout=timeout_s))


def read(call: Any) -> Reply:
    """Read a ModelStreamInfer call to its end."""
    reply = Reply()
    try:
        for response in call:
            if response.error_message:
                reply.error = response.error_message
            else:
                result = InferResult(response.infer_response)
                reply.responses.append({o.name: result.as_numpy(o.name) for o in response.infer_response.outputs})
    except grpc.RpcError as error:
        reply.status, reply.error = error.code().name, error.details()
    return reply


def ask(server: Server, model: str, fields: Mapping[str, Any]) -> Reply:
    """As infer, on a channel of its own."""
    with grpc_stub(server) as stub:
        return infer(stub, model, fields)


def generate(server: Server, model: str, body: Mapping[str, Any] | bytes, stream: bool = False) -> Reply:
    """One HTTP generate or generate_stream request; a body of bytes is sent as it is."""
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=TIMEOUT_S)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request("POST", f"/v2/models/{model}/generate{'_stream' if stream else ''}", body=data)
        response = connection.getresponse()
        return _reply(response.status, response.read())
    finally:
        connection.close()


def _reply(status: int, data: bytes) -> Reply:
    text = data.decode("utf-8")
    # generate_stream answers a refusal with plain JSON and everything else with events.
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")] or [text]
    reply = Reply(status=status)
    for event in events:
        content = json.loads(event)
        if "error" in content:
            reply.error = content["error"]
        else:
            reply.responses.append(content)
    return reply


def assert_clean(error: str) -> None:
    """Nothing of the inside shows."""
    assert error
    for sign in ("Traceback", 'File "', ".py", "Error:", "  At:"):
        assert sign not in error
