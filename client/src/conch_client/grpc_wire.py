"""Protobuf messages to values and back, without numpy; gRPC's errors. For both gRPC transports."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from conch_client import _contract as contract
from conch_client.address import Address
from conch_client.answers import chunk_of_values
from conch_client.errors import ConchClientError, InternalError, UnavailableError, error_of, error_of_text
from conch_client.request import Request
from conch_client.tls import read_file, ssl_context
from conch_client.types import Chunk, ModelInfo, Tls

STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that restarts is found again within the time of a retry, not after gRPC's own 20 s and more.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_FORMATS = {"BOOL": "<?", "INT32": "<i", "INT64": "<q", "UINT64": "<Q", "FP32": "<f"}
_RARE_OUTPUTS = {contract.TOKEN_IDS, contract.OUTPUT_LOG_PROBS, contract.CUM_LOG_PROBS, *contract.PERF_TIMES}
_RESTRICTED = "is restricted, expecting header"
_REFUSED = re.compile(r"Failed to connect to remote host: (?:.*: )?(.*?)(?: \(\d+\))?$")


def message_of(request: Request) -> Any:
    """The ModelInferRequest: each tensor [1, n], its elements little-endian in raw_input_contents."""
    message = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    for name, dtype, value in request.tensors:
        values = value if isinstance(value, list) else (value,)
        message.inputs.add(name=name, datatype=dtype, shape=(1, len(values)))
        message.raw_input_contents.append(_raw(dtype, values))
    return message


def _raw(dtype: str, values: Iterable[Any]) -> bytes:
    if dtype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return b"".join(struct.pack(_FORMATS[dtype], value) for value in values)


def chunk_of(message: Any, request: Request, started: bool) -> Chunk:
    """One response of a model.

    Args:
        message: ModelStreamInferResponse.
        request: what it answers.
        started: there was a response before it.

    Raises:
        ConchClientError: it is an error.
    """
    if message.error_message:
        default = "INTERNAL" if started else "INVALID_ARGUMENT"
        raise error_of_text(message.error_message, default, request.request_id)
    response = message.infer_response
    text_name = contract.RENAMES.get(request.model, {}).get(contract.TEXT_OUTPUT, contract.TEXT_OUTPUT)
    text, reason, outputs, inputs = "", None, None, None
    # The common case, a piece of one answer, without a detour: it comes for every token.
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        name = output.name
        if name == text_name:
            text = _first_text(raw)
            if len(raw) != 4 + int.from_bytes(raw[:4], "little"):
                break  # many answers
        elif name == contract.NUM_OUTPUT_TOKENS:
            outputs = int.from_bytes(raw[:4], "little", signed=True)
        elif name == contract.FINISH_REASON:
            reason = _first_text(raw) or None
        elif name == contract.NUM_INPUT_TOKENS:
            inputs = int.from_bytes(raw[:4], "little", signed=True)
        elif name in _RARE_OUTPUTS:
            break
    else:
        return Chunk(text, reason, outputs, inputs, response.model_version)
    pairs = zip(response.outputs, response.raw_output_contents, strict=False)
    values = {contract.TEXT_OUTPUT if o.name == text_name else o.name: _values(o.datatype, raw) for o, raw in pairs}
    return chunk_of_values(values, response.model_version)


def _values(dtype: str, raw: bytes) -> list[Any]:
    """The elements of a tensor, in their order."""
    if dtype == "BYTES":
        texts = []
        while raw:
            texts.append(_first_text(raw))
            raw = raw[4 + int.from_bytes(raw[:4], "little") :]
        return texts
    if dtype not in _FORMATS:
        return []  # of a model that is not ours
    return [value for (value,) in struct.iter_unpack(_FORMATS[dtype], raw)]


def _first_text(raw: bytes) -> str:
    """The first element of a BYTES tensor: its length in 4 bytes, then UTF-8."""
    end = 4 + int.from_bytes(raw[:4], "little")
    if len(raw) < end or len(raw) < 4:
        raise InternalError(f"a BYTES tensor of {len(raw)} bytes is too short for what it says it holds")
    return str(raw[4:end], "utf-8", "replace")


def metadata_of(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Call metadata; gRPC wants the names in lower case."""
    return tuple((name.lower(), value) for name, value in headers.items())


def models_of(index: Any) -> list[ModelInfo]:
    """The repository index, from a RepositoryIndexResponse."""
    return [ModelInfo(m.name, m.version, m.state, m.reason) for m in index.models]


def rpc_error(error: Any, address: Address, timeout_error: ConchClientError) -> ConchClientError:
    """The error of a failed call.

    Args:
        error: grpc.RpcError with ``code()`` and ``details()``.
        address: of the server, for the message.
        timeout_error: what to give if the time was up.
    """
    code = error.code().name
    details = error.details() or code
    if _RESTRICTED in details:
        code = "PERMISSION_DENIED"  # Triton says UNAVAILABLE, but no retry will help
    if code == "DEADLINE_EXCEEDED":
        return timeout_error
    if code == "UNAVAILABLE" and ("onnect" in details or "resol" in details or "DNS" in details):
        known = _REFUSED.search(details)
        return UnavailableError(f"cannot reach {address}: {known[1] if known else details}")
    return error_of(code, details)


def credentials_of(tls: Tls) -> Any:
    """gRPC channel credentials for the files of a Tls.

    Raises:
        InvalidArgumentError: a file that cannot be used.
    """
    ssl_context(tls)  # gRPC itself says nothing before it connects, and then no more than that TLS failed
    return grpc.ssl_channel_credentials(*(read_file(tls, name) for name in ("ca_file", "key_file", "cert_file")))
