"""Triton over HTTP: generate (one answer) and generate_stream (server-sent events)."""

from __future__ import annotations

import http.client
import time

from conch_client.address import http_address
from conch_client.errors import ConchClientError
from conch_client.http_wire import body_of, chunk_of, generate_path, model_path, status_error
from conch_client.request import Request
from conch_client.types import Tls

from conch_load.config import RunConfig
from conch_load.users.base import FrontError
from conch_load.users.exchange import CUT, Exchange
from conch_load.users.http_pool import HttpPool, StatusError, events, note_broken
from conch_load.users.triton_request import request_of, take


class TritonHttp:
    """The fronts ``triton-http`` and ``triton-http-stream``.

    Args:
        config: of the run.
        stream: generate_stream; else generate, whose only stamp is that of the whole answer.
    """

    def __init__(self, config: RunConfig, *, stream: bool) -> None:
        self._config, self._stream = config, stream
        try:
            address = http_address(config.target, Tls() if config.target.startswith("https://") else None)
        except ConchClientError as error:
            raise FrontError(f"target: {error}") from None
        self._address = address
        self._pool = HttpPool(address, config.timeout_s)

    def connect(self) -> None:
        model = self._config.model
        try:
            status, _ = self._pool.get(f"{model_path(model, '')}/ready", {})
        except (OSError, http.client.HTTPException) as error:
            raise FrontError(f"cannot reach {self._address}: {error}") from None
        if status != 200:
            raise FrontError(f"model {model} at {self._address} is not ready: HTTP status {status}; is that its name?")

    def send(self, exchange: Exchange) -> None:
        request = request_of(exchange, self._config, self._stream)
        pieces = self._pool.post(generate_path(request, self._stream), body_of(request), {}, exchange)
        try:
            if self._stream:
                for data, at_ns in events(pieces):
                    take(exchange, chunk_of(data, request, bool(exchange.chunk_ns)), at_ns)
            else:
                self._whole(exchange, request, b"".join(pieces))
            exchange.end()
            if exchange.finish_reason is None:
                exchange.fail(CUT, "the answer ended without a finish_reason")
        except ConchClientError as error:
            exchange.end()
            exchange.fail(error.code, str(error))
        except StatusError as error:
            exchange.end()
            exchange.fail(str(error.status), str(status_error(error.status, error.body)))
        except (OSError, http.client.HTTPException) as error:
            note_broken(exchange, error, self._config.timeout_s)
        finally:
            pieces.close()

    def close(self) -> None:
        self._pool.close()

    def _whole(self, exchange: Exchange, request: Request, body: bytes) -> None:
        take(exchange, chunk_of(body, request, False), time.monotonic_ns())
