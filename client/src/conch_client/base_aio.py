"""The calls of the clients for asyncio in terms of a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conch_client import _contract as contract
from conch_client.address import Address
from conch_client.base import STOP_TIMEOUT_S, STOP_WAIT_S, Settings, as_models
from conch_client.errors import ConchClientError, DeadlineExceededError, PermissionDeniedError, UnavailableError
from conch_client.metrics import Metrics, fetch_metrics
from conch_client.request import Request, build_stop, check_headers
from conch_client.retry import Deadline
from conch_client.streams import AsyncStream
from conch_client.transport import AsyncTransport
from conch_client.types import Completion, Health, Message, ModelInfo

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from conch_client.types import Parameters


class AsyncBaseClient(Settings):
    """The calls of AsyncClient and AsyncHttpClient. One event loop each."""

    def __init__(self, transport: AsyncTransport, address: Address, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._transport = transport
        self._stops: set[asyncio.Task[None]] = set()

    async def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        model: str | None = None,
        version: str | int | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **parameters: Unpack[Parameters],
    ) -> Completion:
        """Ask and wait for the whole answer. Arguments and errors as for Client.generate."""
        request = self._build(False, prompt, messages, model, version, request_id, parameters)
        async with self._open(request, False, timeout_s, headers) as stream:
            async for _ in stream:
                pass
        return stream.completion

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        model: str | None = None,
        version: str | int | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **parameters: Unpack[Parameters],
    ) -> AsyncStream:
        """Ask and read the answer as it comes. Not awaited itself; as Client.stream."""
        request = self._build(True, prompt, messages, model, version, request_id, parameters)
        return self._open(request, True, timeout_s, headers)

    def _open(
        self, request: Request, stream: bool, timeout_s: float | None, headers: Mapping[str, str] | None
    ) -> AsyncStream:
        deadline, checked, transport = self._deadline(timeout_s), check_headers(headers), self._transport
        return AsyncStream(
            lambda: transport.open(request, deadline, checked, stream), request, deadline, self._retry,
            None if stream or not request.own_id else lambda: self._stop_later(request, headers),
        )  # fmt: skip

    def _stop_later(self, request: Request, headers: Mapping[str, str] | None) -> None:
        """As SyncClient's."""

        async def stop() -> None:
            with suppress(ConchClientError):
                stop = build_stop(request.model, request.version, request.request_id)
                await self._stop(stop, STOP_TIMEOUT_S, headers)

        with suppress(RuntimeError):  # the loop has ended
            task = asyncio.get_running_loop().create_task(stop())
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def _stop(self, request: Request, timeout_s: float | None, headers: Mapping[str, str] | None) -> None:
        async with self._open(request, False, timeout_s, headers) as answer:
            async for _ in answer:
                pass

    async def cancel(
        self,
        request_id: str,
        *,
        model: str | None = None,
        version: str | int | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """End the requests in flight that have an id; see Client.cancel."""
        await self._stop(self._build_stop(request_id, model, version), timeout_s, headers)

    async def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """Every version of every model in the server's repository; see Client.models."""
        deadline = self._deadline(timeout_s)
        try:
            return await self._transport.index(deadline)
        except PermissionDeniedError:
            known = [m for name in self._with_mine(contract.MODELS) for m in await self._loaded(name, deadline)]
            twins = [m for name in contract.TWINS for m in await self._loaded(name, deadline)]
            return [*known, *(m for m in twins if m.version and m.name != self.model)]

    async def _loaded(self, name: str, deadline: Deadline) -> list[ModelInfo]:
        if not await self._transport.model_ready(name, "", deadline):
            return as_models(name, ())
        return as_models(name, await self._transport.versions(name, deadline))

    async def health(self, *, timeout_s: float | None = 5.0) -> Health:
        """How the server does. One that cannot be reached is not live; that is no error."""
        deadline = self._deadline(timeout_s)
        try:
            live = await self._transport.server_live(deadline)
            ready = await self._transport.server_ready(deadline)
            names = self._with_mine(contract.ENSEMBLES)
            models = {name: await self._transport.model_ready(name, "", deadline) for name in names}
            return Health(live, ready, models)
        except (UnavailableError, DeadlineExceededError) as error:
            return Health(False, False, detail=error.message)

    async def metrics(self, *, timeout_s: float | None = None) -> Metrics:
        """What the metrics port says."""
        return await asyncio.to_thread(fetch_metrics, self._metrics_address, self._deadline(timeout_s))

    async def close(self) -> None:
        """Close the connections."""
        if self._stops:
            await asyncio.wait(set(self._stops), timeout=STOP_WAIT_S)
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
