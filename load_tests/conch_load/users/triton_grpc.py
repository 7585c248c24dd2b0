"""Triton over gRPC: a stream of its own for each request, all on one channel of the worker.

Two things of grpcio under gevent matter here. Without ``init_gevent`` the first call blocks the process for ever. And
each wait for messages takes a thread of the hub's pool, which has 10: with more channels than that, messages wait for
other channels' messages, and the time to the first token shows it. So there is one channel, and room in the pool.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
import grpc
from conch_client.address import grpc_address
from conch_client.errors import ConchClientError
from conch_client.grpc_wire import CHANNEL_OPTIONS, STREAM_INFER, chunk_of, credentials_of, message_of, rpc_error
from conch_client.types import Tls
from grpc.experimental import gevent as grpc_gevent  # type: ignore[attr-defined]  # its stubs leave it out
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conch_load.config import RunConfig
from conch_load.users.base import FrontError
from conch_load.users.exchange import CONNECTION, CUT, TIMEOUT, Exchange
from conch_load.users.triton_request import request_of, take

_READY_S = 10
_POOL_THREADS = 64


class TritonGrpc:
    """The front ``triton-grpc``.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        try:
            self._address = grpc_address(config.target, Tls() if config.target.startswith("grpcs://") else None)
        except ConchClientError as error:
            raise FrontError(f"target: {error}") from None

    def connect(self) -> None:
        grpc_gevent.init_gevent()
        gevent.get_hub().threadpool.maxsize = _POOL_THREADS
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        if self._address.tls is None:
            self._channel = grpc.insecure_channel(str(self._address), options=options)
        else:
            self._channel = grpc.secure_channel(str(self._address), credentials_of(self._address.tls), options=options)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        try:
            ready = stub.ModelReady(service_pb2.ModelReadyRequest(name=self._config.model), timeout=_READY_S)
        except grpc.RpcError as error:
            known = rpc_error(error, self._address, ConchClientError("no answer in time"))
            raise FrontError(f"model {self._config.model} at {self._address}: {known}") from None
        if not ready.ready:
            raise FrontError(f"model {self._config.model} at {self._address} is not ready")
        self._method = self._channel.unary_stream(
            STREAM_INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def send(self, exchange: Exchange) -> None:
        request = request_of(exchange, self._config, stream=True)
        message = message_of(request)
        exchange.sent_ns = time.monotonic_ns()
        call: Any = self._method(message, timeout=self._config.timeout_s)
        try:
            for response in call:
                now = time.monotonic_ns()
                take(exchange, chunk_of(response, request, bool(exchange.chunk_ns)), now)
            exchange.end()
            if exchange.finish_reason is None:
                exchange.fail(CUT, "the stream ended without a finish_reason")
        except ConchClientError as error:
            exchange.end()
            exchange.fail(error.code, str(error))
        except grpc.RpcError as error:
            exchange.end()
            self._note(exchange, error)
        finally:
            call.cancel()

    def close(self) -> None:
        self._channel.close()

    def _note(self, exchange: Exchange, error: grpc.RpcError) -> None:
        known = rpc_error(error, self._address, ConchClientError("no full answer in time"))
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            exchange.fail(TIMEOUT, f"no full answer within {self._config.timeout_s:g} s")
        elif str(known).startswith("cannot reach"):
            exchange.fail(CONNECTION, str(known))
        elif exchange.chunk_ns and exchange.finish_reason is None and error.code() == grpc.StatusCode.UNAVAILABLE:
            exchange.fail(CUT, str(known))
        else:
            exchange.fail(known.code, str(known))
