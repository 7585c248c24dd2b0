"""The clients under one way to call them."""

from __future__ import annotations

import asyncio
from typing import Any

import conch_client
from conch_client import Completion, Retry
from fake_servers import GrpcServer, HttpServer

FAST_RETRY = Retry(max_attempts=3, initial_backoff_s=0.01, max_backoff_s=0.02)
KINDS = {
    "grpc": (conch_client.Client, GrpcServer),
    "grpc_aio": (conch_client.AsyncClient, GrpcServer),
    "http": (conch_client.HttpClient, HttpServer),
    "http_aio": (conch_client.AsyncHttpClient, HttpServer),
}


class Asker:
    """One kind of client, called the same way whether it is for threads or for asyncio."""

    def __init__(self, kind: str, url: str, **settings: Any) -> None:
        self.kind = kind
        self.is_async = kind.endswith("_aio")
        self.is_http = kind.startswith("http")
        self.make = lambda **more: KINDS[kind][0](url, **{"retry": FAST_RETRY, **settings, **more})

    def call(self, method: str, *arguments: Any, client: dict[str, Any] | None = None, **named: Any) -> Any:
        """One call of a fresh client."""
        if not self.is_async:
            with self.make(**client or {}) as sync_client:
                return getattr(sync_client, method)(*arguments, **named)

        async def run() -> Any:
            async with self.make(**client or {}) as async_client:
                return await getattr(async_client, method)(*arguments, **named)

        return asyncio.run(run())

    def generate(self, *arguments: Any, **named: Any) -> Completion:
        return self.call("generate", *arguments, **named)

    def stream(self, *arguments: Any, into: list[str] | None = None, stop_after: int = 0, **named: Any) -> Completion:
        """Read a stream; each text goes to `into`; leaves the block after `stop_after` chunks."""
        texts = into if into is not None else []
        if not self.is_async:
            with self.make() as client, client.stream(*arguments, **named) as stream:
                for chunk in stream:
                    texts.append(chunk.text)
                    if len(texts) == stop_after:
                        break
            return stream.completion

        async def run() -> Completion:
            async with self.make() as client, client.stream(*arguments, **named) as stream:
                async for chunk in stream:
                    texts.append(chunk.text)
                    if len(texts) == stop_after:
                        break
            return stream.completion

        return asyncio.run(run())
