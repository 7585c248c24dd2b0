"""Triton over gRPC: a ModelStreamInfer call of its own for each request, all on one connection of the worker."""

from __future__ import annotations

import time

import gevent
import grpc
from conch_client.address import grpc_address
from conch_client.errors import ConchClientError, error_of
from conch_client.grpc_wire import STREAM_INFER, chunk_of, message_of
from conch_client.tls import ssl_context
from conch_client.types import Tls
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from conch_load.config import RunConfig
from conch_load.users.base import FrontError
from conch_load.users.exchange import BAD_RESPONSE, CONNECTION, CUT, TIMEOUT, Exchange
from conch_load.users.http2 import CallBrokenError, GrpcStatusError, Http2Connection
from conch_load.users.triton_request import request_of, take

_READY_S = 10
_MODEL_READY = "/inference.GRPCInferenceService/ModelReady"
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


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
        self._connection: Http2Connection | None = None

    def connect(self) -> None:
        model = self._config.model
        asked = service_pb2.ModelReadyRequest(name=model).SerializeToString()
        try:
            with gevent.Timeout(_READY_S):
                found = [message for _, message in self._open().call(_MODEL_READY, asked, _READY_S).messages()]
        except gevent.Timeout:
            raise FrontError(f"{self._address} does not answer within {_READY_S} s; is it gRPC's port?") from None
        except CallBrokenError as error:
            raise FrontError(f"model {model} at {self._address}: {error}") from None
        except GrpcStatusError as error:
            known = error_of(_NAMES.get(error.code, "UNKNOWN"), error.details)
            raise FrontError(f"model {model} at {self._address}: {known}") from None
        if not found or not service_pb2.ModelReadyResponse.FromString(found[0]).ready:
            raise FrontError(f"model {model} at {self._address} is not ready; is that its name?")

    def send(self, exchange: Exchange) -> None:
        request = request_of(exchange, self._config, stream=True)
        message: bytes = message_of(request).SerializeToString()
        exchange.sent_ns = time.monotonic_ns()
        call = None
        try:
            call = self._open().call(STREAM_INFER, message, self._config.timeout_s)
            for at_ns, raw in call.messages():
                response = service_pb2.ModelStreamInferResponse.FromString(raw)
                take(exchange, chunk_of(response, request, bool(exchange.chunk_ns)), at_ns)
            exchange.end()
            if exchange.finish_reason is None:
                exchange.fail(CUT, "the stream ended without a finish_reason")
        except ConchClientError as error:
            self._fail(exchange, error.code, str(error))
        except DecodeError as error:
            self._fail(exchange, BAD_RESPONSE, f"no ModelStreamInferResponse: {error}")
        except CallBrokenError as error:
            self._fail(exchange, CUT if exchange.chunk_ns else CONNECTION, str(error))
        except GrpcStatusError as error:
            known = error_of(_NAMES.get(error.code, "UNKNOWN"), error.details)
            self._fail(exchange, TIMEOUT if error.code == _DEADLINE_EXCEEDED else known.code, str(known))
        finally:
            if call is not None:
                call.cancel()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> Http2Connection:
        """The connection; a new one where the last one broke."""
        if self._connection is None or self._connection.broken:
            tls = ssl_context(self._address.tls) if self._address.tls else None
            self._connection = Http2Connection(self._address.host, self._address.port, tls, _READY_S)
        return self._connection

    def _fail(self, exchange: Exchange, code: str, text: str) -> None:
        exchange.end()
        exchange.fail(code, text)
