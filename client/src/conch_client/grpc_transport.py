"""gRPC with threads: each generation is a stream call of its own on one shared channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conch_client.address import Address
from conch_client.errors import ClosedError
from conch_client.grpc_wire import (
    CHANNEL_OPTIONS,
    STREAM_INFER,
    chunk_of,
    credentials_of,
    message_of,
    metadata_of,
    models_of,
    rpc_error,
)
from conch_client.request import Request
from conch_client.retry import Deadline
from conch_client.types import Chunk, ModelInfo


class GrpcTransport:
    """Calls of a KServe v2 server over one channel.

    ModelStreamInfer is a stream in both directions, but a generation sends one message only. On the wire that is the
    same as a call with one request, and called that way gRPC needs no thread to feed it: it costs about half. (The
    option SingleThreadedUnaryStream would save as much again, but never frees a call that was cancelled.)

    Args:
        address: host, port and TLS.
        headers: metadata of every call.
    """

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self._closed = False
        options = list(CHANNEL_OPTIONS)
        if address.tls is None:
            self._channel = grpc.insecure_channel(str(address), options=options)
        else:
            self._channel = grpc.secure_channel(str(address), credentials_of(address.tls), options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._stream_infer = self._channel.unary_stream(
            STREAM_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def open(self, request: Request, deadline: Deadline, headers: Mapping[str, str], stream: bool) -> GrpcCall:
        """Start a generation. It runs until read to its end, cancelled or out of time."""
        rpc = self._start(self._stream_infer, message_of(request), deadline, {**self._headers, **headers})
        return GrpcCall(rpc, request, self._address, deadline)

    def _unary(self, method: Any, message: Any, deadline: Deadline) -> Any:
        try:
            return self._start(method, message, deadline, self._headers)
        except grpc.RpcError as error:
            raise rpc_error(error, self._address, deadline.exceeded()) from error

    def _start(self, method: Any, message: Any, deadline: Deadline, headers: Mapping[str, str]) -> Any:
        try:
            return method(message, timeout=deadline.remaining_s(), metadata=metadata_of(headers))
        except ValueError as error:  # what grpc raises for a closed channel, and for some things else
            if self._closed:
                raise ClosedError from error
            raise

    def server_live(self, deadline: Deadline) -> bool:
        """Whether the server answers and is not about to stop."""
        return bool(self._unary(self._stub.ServerLive, service_pb2.ServerLiveRequest(), deadline).live)

    def server_ready(self, deadline: Deadline) -> bool:
        """What the server says of itself."""
        return bool(self._unary(self._stub.ServerReady, service_pb2.ServerReadyRequest(), deadline).ready)

    def model_ready(self, model: str, version: str, deadline: Deadline) -> bool:
        """Whether a model may be asked; False for one that does not exist."""
        message = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool(self._unary(self._stub.ModelReady, message, deadline).ready)

    def versions(self, model: str, deadline: Deadline) -> list[str]:
        """Versions of a model that may be asked.

        Raises:
            ConchClientError: there are none, or no such model.
        """
        message = service_pb2.ModelMetadataRequest(name=model)
        return list(self._unary(self._stub.ModelMetadata, message, deadline).versions)

    def index(self, deadline: Deadline) -> list[ModelInfo]:
        """The repository index: every version of every model, loaded or not."""
        return models_of(self._unary(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), deadline))

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._closed = True
        self._channel.close()


class GrpcCall:
    """One ModelStreamInfer call."""

    def __init__(self, rpc: Any, request: Request, address: Address, deadline: Deadline) -> None:
        self._rpc = rpc
        self._request = request
        self._address = address
        self._deadline = deadline
        self._started = False

    def __next__(self) -> Chunk:
        try:
            message = next(self._rpc)
        except grpc.RpcError as error:
            raise rpc_error(error, self._address, self._deadline.exceeded()) from error
        chunk = chunk_of(message, self._request, self._started)
        self._started = True
        return chunk

    def cancel(self) -> None:
        """Reset the stream: the server stops at once. Nothing happens to a call at its end."""
        self._rpc.cancel()

    close = cancel
