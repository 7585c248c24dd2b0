"""gRPC with asyncio: as grpc_transport, on grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conch_client.address import Address
from conch_client.errors import CancelledError, ClosedError
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


class AsyncGrpcTransport:
    """Calls of a KServe v2 server over one channel. The channel is made with the first call, in the loop that runs.

    Args:
        address: host, port and TLS.
        headers: metadata of every call.
    """

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self._credentials = None if address.tls is None else credentials_of(address.tls)
        self._channel: Any = None
        self._stub: Any = None
        self._stream_infer: Any = None
        self._closed = False

    def _connect(self) -> None:
        if self._closed:
            raise ClosedError()
        if self._channel is not None:
            return
        options = list(CHANNEL_OPTIONS)
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(str(self._address), options=options)
        else:
            self._channel = grpc.aio.secure_channel(str(self._address), self._credentials, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._stream_infer = self._channel.unary_stream(
            STREAM_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    async def open(
        self, request: Request, deadline: Deadline, headers: Mapping[str, str], stream: bool
    ) -> AsyncGrpcCall:
        """Start a generation. It runs until read to its end, cancelled or out of time."""
        self._connect()
        rpc = self._stream_infer(
            message_of(request), timeout=deadline.remaining_s(), metadata=metadata_of({**self._headers, **headers})
        )
        return AsyncGrpcCall(rpc, request, self._address, deadline)

    async def _unary(self, method: str, message: Any, deadline: Deadline) -> Any:
        self._connect()
        call = getattr(self._stub, method)
        try:
            return await call(message, timeout=deadline.remaining_s(), metadata=metadata_of(self._headers))
        except grpc.RpcError as error:
            raise rpc_error(error, self._address, deadline.exceeded()) from error

    async def server_live(self, deadline: Deadline) -> bool:
        """Whether the server answers and is not about to stop."""
        return bool((await self._unary("ServerLive", service_pb2.ServerLiveRequest(), deadline)).live)

    async def server_ready(self, deadline: Deadline) -> bool:
        """What the server says of itself."""
        return bool((await self._unary("ServerReady", service_pb2.ServerReadyRequest(), deadline)).ready)

    async def model_ready(self, model: str, version: str, deadline: Deadline) -> bool:
        """Whether a model may be asked; False for one that does not exist."""
        message = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool((await self._unary("ModelReady", message, deadline)).ready)

    async def versions(self, model: str, deadline: Deadline) -> list[str]:
        """As GrpcTransport.versions."""
        message = service_pb2.ModelMetadataRequest(name=model)
        return list((await self._unary("ModelMetadata", message, deadline)).versions)

    async def index(self, deadline: Deadline) -> list[ModelInfo]:
        """The repository index: every version of every model, loaded or not."""
        return models_of(await self._unary("RepositoryIndex", service_pb2.RepositoryIndexRequest(), deadline))

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class AsyncGrpcCall:
    """One ModelStreamInfer call."""

    def __init__(self, rpc: Any, request: Request, address: Address, deadline: Deadline) -> None:
        self._rpc = rpc
        self._request = request
        self._address = address
        self._deadline = deadline
        self._started = False

    async def __anext__(self) -> Chunk:
        try:
            message = await self._rpc.read()
        except grpc.RpcError as error:
            raise rpc_error(error, self._address, self._deadline.exceeded()) from error
        except asyncio.CancelledError:
            # grpc.aio raises this too for a call that the server or a closed channel cancelled.
            if self._rpc.done() and not self._asked_to_stop():
                raise CancelledError("the call was cancelled", request_id=self._request.request_id) from None
            raise
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise StopAsyncIteration
        chunk = chunk_of(message, self._request, self._started)
        self._started = True
        return chunk

    @staticmethod
    def _asked_to_stop() -> bool:
        task = asyncio.current_task()
        cancelling = getattr(task, "cancelling", None)  # Python 3.11
        return cancelling is None or cancelling() > 0

    def close(self) -> None:
        """Reset the stream: the server stops at once. Nothing happens to a call at its end."""
        self._rpc.cancel()
