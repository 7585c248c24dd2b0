"""Requests that nobody should send, drawn from a seed: the same ones every time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import service_pb2

from conch.contract import CONTROLS, DETOKENIZER, ENGINE, ENSEMBLE, MODEL_NAMES, PIPELINE, TOKENIZER, UNARY

STREAM_INFER, UNARY_INFER = "ModelStreamInfer", "ModelInfer"
# Two things are not among the mutations, since tritonserver 2.51 dies of them, whatever the model (docs/operations.md):
# the header triton_grpc_error, and a tensor of numbers in the JSON of HTTP infer whose shape has more elements than
# there is memory for. Over gRPC and behind the JSON (binary_data_size) such shapes are refused, and are among them.
_MOST_ELEMENTS_IN_JSON = 1 << 20

GOOD = {
    "text_input": "Once upon a time", "max_tokens": 4, "timeout_ms": 2000, "temperature": 0.0, "top_k": 5, "seed": 7,
}  # fmt: skip
_NAMES = (*(c.name for c in CONTROLS), "text_input", "messages", "random_seed", "id", "parameters")
_MODELS = (*MODEL_NAMES, "nope", "", "../ensemble", "ensemble/versions/999", "ensemble/versions/x", "%00", "e" * 5000)
_TEXTS = (
    "", "\0", "x" * 50_000, "\ud800", "🐚" * 999, "{", "[]", "null", '[{"role": "user"}]', "[" * 50_000,
    '[{"role": "user", "content": "hi"}]', '{"a":' * 5000, "json", "regex", "json_schema", "a{9999}", "(" * 5000,
    "é\u0301",
)  # fmt: skip
_NUMBERS = (0, -1, 1, 2, 64, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**63, 2**64 - 1, 2**64, -(2**63), 10**400, 0.5,
            -0.0, 1e-45, 1e38, 3.5e38, 1e308)  # fmt: skip
_RAW = (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-", b"0x10", b"1.", b"'a'", b"[1,]", b"tru", b'"\xff\xfe"',
        b'"\\ud800"', b'"\\u0000"', b"[" * 20_000, b"{}", b"[[]]", b"")  # fmt: skip


@dataclass(frozen=True)
class HttpCase:
    """One HTTP request.

    Attributes:
        path: below the server.
        body: as it is.
        headers: beside those that HTTP needs.
        claimed: Content-Length; None: the true one.
    """

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    claimed: str | None = None


@dataclass(frozen=True)
class GrpcCase:
    """One gRPC call of a method with these bytes as its only message."""

    method: str
    data: bytes


Case = HttpCase | GrpcCase


def cases(count: int, seed: int) -> list[Case]:
    """So many cases; the kinds take turns."""
    rng = random.Random(seed)
    kinds: tuple[Callable[[random.Random], Case], ...] = (_generate, _infer, _grpc, _generate, _binary_infer, _grpc)
    return [kinds[number % len(kinds)](rng) for number in range(count)]


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _generate(rng: random.Random) -> HttpCase:
    model = rng.choice(_MODELS) if rng.random() < 0.15 else rng.choice([ENSEMBLE.name, ENSEMBLE.name, PIPELINE.name])
    verb = rng.choice(["generate", "generate_stream"])
    fields = dict(GOOD)
    if model == PIPELINE.name:
        fields["INPUT_TEXT"] = fields.pop("text_input")
    for _ in range(rng.randint(1, 3)):
        _change_field(rng, fields)
    body = _json(rng, fields)
    if rng.random() < 0.3:
        body = _change_bytes(rng, body)
    return _http(rng, f"/v2/models/{model}/{verb}", body, {})


def _change_field(rng: random.Random, fields: dict[str, Any]) -> None:
    kind = rng.randrange(6)
    name = rng.choice(_NAMES)
    if kind == 0:
        fields.pop(rng.choice(list(fields)), None)
    elif kind == 1:
        fields[_misspelt(rng, name)] = 1
    else:
        fields[name] = _value(rng, 2)


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        return rng.choice(_NUMBERS)
    if kind == 1:
        return rng.choice(_TEXTS)
    if kind == 2:
        return rng.choice([True, False, None])
    if kind == 3:
        return _Raw(rng.choice(_RAW))
    if kind == 4:
        return rng.randint(-5, 40)
    if kind == 5:
        return {rng.choice(_NAMES): _value(rng, depth - 1)}
    return [_value(rng, depth - 1) for _ in range(rng.choice([0, 1, 2, 40]))]


def _misspelt(rng: random.Random, name: str) -> str:
    at = rng.randrange(len(name))
    return rng.choice([name[:at] + name[at + 1 :], name + "s", name.upper(), "", name * 300, name + "\0"])


class _Raw:
    """Bytes that stand in JSON as they are."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def _json(rng: random.Random, fields: dict[str, Any]) -> bytes:
    items = [_encoded(name) + b": " + _encoded(value) for name, value in fields.items()]
    if rng.random() < 0.1:
        items += [rng.choice(items)] * rng.choice([1, 500]) if items else []
    return b"{" + b", ".join(items) + b"}"


def _encoded(value: Any) -> bytes:
    if isinstance(value, _Raw):
        return value.data
    if isinstance(value, dict):
        return b"{" + b", ".join(_encoded(k) + b": " + _encoded(v) for k, v in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(_encoded, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _change_bytes(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 4])):
        at = rng.randrange(len(data) + 1)
        end = at + rng.choice([1, 1, 2, 9])
        data = rng.choice(
            [
                data[:at], data[:at] + data[end:], data[:at] + rng.randbytes(end - at) + data[end:],
                data[:at] + rng.randbytes(3) + data[at:], data[:at] + data[at : at + 30] * 2 + data[at + 30 :],
            ]
        )  # fmt: skip
    return data


def _http(rng: random.Random, path: str, body: bytes, headers: dict[str, str]) -> HttpCase:
    claimed = None
    if rng.random() < 0.08:
        claimed = rng.choice([str(len(body) + 10), str(max(len(body) - 5, 0)), "-1", "0", "x", str(2**64)])
    if rng.random() < 0.05:
        header = rng.choice(["Content-Encoding", "Accept-Encoding"])
        headers = {**headers, header: rng.choice(["gzip", "deflate", "no"])}
    return HttpCase(path, body, headers, claimed)


_SOME_INPUTS = {
    TOKENIZER.name: GOOD,
    UNARY.name: GOOD,
    ENSEMBLE.name: GOOD,
    "unary_u32": {"text_input": "Once upon a time", "temperature": 0.0},
    ENGINE.name: {"input_ids": [1, 2, 3], "input_lengths": 3, "request_output_len": 3, "temperature": 0.0},
    DETOKENIZER.name: {"output_ids": [5, 6, 7], "sequence_length": 3, "trim_chars": 1, "receipt": [1, 2, 3, 4, 5]},
}
_DTYPES = ("BYTES", "BOOL", "INT32", "INT64", "UINT32", "UINT64", "FP32", "FP64", "FP16", "BF16", "STRING", "", "X")
_DTYPE_OF = {**{c.name: c.dtype.value for c in CONTROLS}, **{c.engine_name: c.dtype.value for c in CONTROLS}}
_DTYPE_OF |= {"text_input": "BYTES", "receipt": "INT64"}
_RANKS = {(DETOKENIZER.name, "output_ids"): 3, ("unary_u32", "*"): 3}
_DIMENSIONS = (0, 1, 2, -1, 33, 2**31, 2**62, 2**63 - 1, -(2**63))


def _tensors(rng: random.Random, model: str) -> list[dict[str, Any]]:
    """The inputs of a good request to a model, then changed: name, datatype, shape, data."""
    tensors: list[dict[str, Any]] = []
    for name, value in _SOME_INPUTS[model].items():
        values = value if isinstance(value, list) else [value]
        rank = _RANKS.get((model, name), _RANKS.get((model, "*"), 2))
        shape = [1] * (rank - 1) + [len(values)]
        tensors.append({"name": name, "datatype": _DTYPE_OF.get(name, "INT32"), "shape": shape, "data": values})
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        _change_tensor(rng, tensors)
    return tensors


def _change_tensor(rng: random.Random, tensors: list[dict[str, Any]]) -> None:
    if not tensors:
        return
    tensor = rng.choice(tensors)
    kind = rng.randrange(8)
    if kind == 0:
        tensor["name"] = rng.choice([_misspelt(rng, tensor["name"]), rng.choice(_NAMES)])
    elif kind == 1:
        tensor["datatype"] = rng.choice(_DTYPES)
    elif kind == 2:
        tensor["shape"] = [rng.choice(_DIMENSIONS) for _ in range(rng.choice([0, 1, 2, 2, 3, 40]))]
    elif kind == 3:
        tensors.append(dict(tensor))
    elif kind == 4:
        tensors.remove(tensor)
    elif kind == 5:
        tensor["parameters"] = {
            rng.choice(["shared_memory_region", "binary_data_size", "x"]): rng.choice(["r", 0, -1, 5, 2**40, True]),
            "shared_memory_byte_size": 16,
        }
    else:
        tensor["data"] = [_value(rng, 0) for _ in range(rng.choice([0, 1, 1, 3]))]


def _infer(rng: random.Random) -> HttpCase:
    model = rng.choice(list(_SOME_INPUTS))
    request: dict[str, Any] = {"id": rng.choice(["", "a", "x" * 3000]), "inputs": _tensors(rng, model)}
    for tensor in request["inputs"]:
        if tensor["datatype"] != "BYTES" and math.prod(map(abs, tensor["shape"])) > _MOST_ELEMENTS_IN_JSON:
            tensor["shape"] = [1, 2, 3]
    if rng.random() < 0.3:
        name = rng.choice(["text_output", "input_ids", "no", ""])
        request["outputs"] = [{"name": name, "parameters": _parameters(rng)}]
    if rng.random() < 0.3:
        request["parameters"] = _parameters(rng)
    body = _json(rng, request)
    if rng.random() < 0.2:
        body = _change_bytes(rng, body)
    return _http(rng, f"/v2/models/{model}/infer", body, {})


def _parameters(rng: random.Random) -> dict[str, Any]:
    names = ("classification", "binary_data", "sequence_id", "sequence_start", "priority", "timeout", "headers", "x")
    return {rng.choice(names): _value(rng, 1) for _ in range(rng.choice([0, 1, 2]))}


def _binary_infer(rng: random.Random) -> HttpCase:
    """JSON with the tensors' bytes behind it, whose sizes may be wrong."""
    model = rng.choice([TOKENIZER.name, UNARY.name, DETOKENIZER.name])
    tensors, blobs = _tensors(rng, model), []
    for tensor in tensors:
        blob = _elements(rng, tensor["datatype"], tensor.pop("data"))
        blob = _change_bytes(rng, blob) if rng.random() < 0.2 else blob
        blobs.append(blob)
        size = len(blob) if rng.random() < 0.9 else rng.choice([0, 1, len(blob) + 1, 2**40, -1])
        tensor["parameters"] = {**tensor.get("parameters", {}), "binary_data_size": size}
    head = _json(rng, {"inputs": tensors})
    length = len(head) if rng.random() < 0.9 else rng.choice([0, 1, len(head) - 1, len(head) + 1, 2**40, -1])
    return _http(
        rng, f"/v2/models/{model}/infer", head + b"".join(blobs), {"Inference-Header-Content-Length": str(length)}
    )


def _elements(rng: random.Random, datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        texts = [_encoded(v) for v in values]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    width = {"BOOL": 1, "FP16": 2, "BF16": 2, "INT64": 8, "UINT64": 8, "FP64": 8}.get(datatype, 4)
    return b"".join(
        (v % 256**width).to_bytes(width, "little") if isinstance(v, int) else rng.randbytes(width) for v in values
    )


# --- gRPC -------------------------------------------------------------------------------------------------------------


def _grpc(rng: random.Random) -> GrpcCase:
    model = rng.choice(list(_SOME_INPUTS))
    message = service_pb2.ModelInferRequest(model_name=model, id=rng.choice(["", "a", "x" * 3000]))
    if rng.random() < 0.1:
        message.model_name = rng.choice([m for m in _MODELS if "\0" not in m])
    if rng.random() < 0.1:
        message.model_version = rng.choice(["0", "-1", "999", "x", "9" * 40])
    for tensor in _tensors(rng, model):
        shape = [d if -(2**63) <= d < 2**63 else 0 for d in tensor["shape"]]
        name = tensor["name"].encode("utf-8", "replace").decode()
        added = message.inputs.add(name=name, datatype=tensor["datatype"], shape=shape)
        for key, value in tensor.get("parameters", {}).items():
            kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
            setattr(added.parameters[key], kind, value)
        blob = _elements(rng, tensor["datatype"], tensor["data"])
        message.raw_input_contents.append(_change_bytes(rng, blob) if rng.random() < 0.2 else blob)
    if rng.random() < 0.1:
        message.parameters[rng.choice(["max_token", "sequence_id", "priority", "timeout", "headers"])].int64_param = 3
    if rng.random() < 0.1:
        message.outputs.add(name=rng.choice(["text_output", "no", ""])).parameters["classification"].int64_param = 2
    if rng.random() < 0.1 and message.raw_input_contents:
        message.raw_input_contents.pop()
    data = message.SerializeToString()
    if rng.random() < 0.25:
        data = _change_bytes(rng, data) if rng.random() < 0.7 else rng.randbytes(rng.choice([0, 1, 50, 5000]))
    return GrpcCase(rng.choice([STREAM_INFER, STREAM_INFER, UNARY_INFER]), data)
