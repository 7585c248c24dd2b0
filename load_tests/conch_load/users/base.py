"""A front: one way to ask a server. Everything in here runs in greenlets of one worker."""

from __future__ import annotations

from typing import Protocol

import gevent

from conch_load.config import RunConfig
from conch_load.users.exchange import TIMEOUT, Exchange


class Front(Protocol):
    """Asks a server; used by many greenlets at once."""

    def connect(self) -> None:
        """Make ready before the clock runs.

        Raises:
            FrontError: the server is not there, or does not have the model.
        """

    def send(self, exchange: Exchange) -> None:
        """Ask, and note down what happens until the stream is over. Raises nothing for what the server does."""

    def close(self) -> None:
        """Let go of connections."""


class FrontError(Exception):
    """The server cannot be asked at all: not there, or without the model."""


def send_within(front: Front, exchange: Exchange, timeout_s: float) -> None:
    """Ask, and give up after ``timeout_s``: that is then how the exchange ended."""
    timeout = gevent.Timeout.start_new(timeout_s)
    try:
        front.send(exchange)
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        exchange.end()
        exchange.fail(TIMEOUT, f"no full answer within {timeout_s:g} s")
    finally:
        timeout.close()


def make_front(config: RunConfig) -> Front:
    """The front of a run."""
    if config.front == "triton-grpc":
        from conch_load.users.triton_grpc import TritonGrpc

        return TritonGrpc(config)
    if config.front == "openai":
        from conch_load.users.openai import OpenAi

        return OpenAi(config)
    from conch_load.users.triton_http import TritonHttp

    return TritonHttp(config, stream=config.front == "triton-http-stream")
