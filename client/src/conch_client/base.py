"""What all four clients share: arguments, defaults, and the calls in terms of a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from conch_client import _contract as contract
from conch_client.address import Address, metrics_address
from conch_client.errors import DeadlineExceededError, InvalidArgumentError, PermissionDeniedError, UnavailableError
from conch_client.metrics import Metrics, fetch_metrics
from conch_client.request import Request, build_request
from conch_client.retry import Deadline, Retry
from conch_client.streams import AsyncCall, AsyncStream, Call, Stream
from conch_client.types import Completion, Health, Message, ModelInfo

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from conch_client._contract import Parameters

DEFAULT_TIMEOUT_S = 600.0

class Transport(Protocol):
    """A way to the server. Every method raises ConchClientError for what goes wrong."""

    def open(self, request: Request, deadline: Deadline, headers: Mapping[str, str], stream: bool) -> Call: ...
    def server_live(self, deadline: Deadline) -> bool: ...
    def server_ready(self, deadline: Deadline) -> bool: ...
    def model_ready(self, model: str, version: str, deadline: Deadline) -> bool: ...
    def versions(self, model: str, deadline: Deadline) -> list[str]: ...
    def index(self, deadline: Deadline) -> list[ModelInfo]: ...
    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """As Transport, for asyncio."""

    async def open(
        self, request: Request, deadline: Deadline, headers: Mapping[str, str], stream: bool
    ) -> AsyncCall: ...
    async def server_live(self, deadline: Deadline) -> bool: ...
    async def server_ready(self, deadline: Deadline) -> bool: ...
    async def model_ready(self, model: str, version: str, deadline: Deadline) -> bool: ...
    async def versions(self, model: str, deadline: Deadline) -> list[str]: ...
    async def index(self, deadline: Deadline) -> list[ModelInfo]: ...
    async def close(self) -> None: ...


class _Settings:
    def __init__(
        self,
        address: Address,
        model: str,
        version: str | int | None,
        timeout_s: float | None,
        retry: Retry | None,
        metrics_url: str | None,
    ) -> None:
        if not model:
            raise InvalidArgumentError("model must not be empty")
        Deadline(timeout_s)  # a bad default is an error here, not at the first request
        self.address = address
        self.model = model
        self.version = version
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._metrics_address = metrics_address(metrics_url, address)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    def _build(
        self, stream: bool, prompt: str | None, messages: Sequence[Message] | None, model: str | None,
        version: str | int | None, request_id: str | None, parameters: Mapping[str, Any],
    ) -> Request:  # fmt: skip
        return build_request(
            prompt=prompt,
            messages=messages,
            model=model or self.model,
            # A version belongs to a model: the default one does not go with another model.
            version=self.version if version is None and model in (None, self.model) else version,
            request_id=request_id,
            stream=stream,
            parameters=parameters,
        )

    def _with_mine(self, names: Sequence[str]) -> list[str]:
        return [*names, *({self.model} - set(names))]


def _as_models(name: str, versions: Sequence[str]) -> list[ModelInfo]:
    return [ModelInfo(name, version, "READY", "") for version in versions] or [ModelInfo(name, "", "UNAVAILABLE", "")]


class SyncClient(_Settings):
    """The calls of Client and HttpClient. Safe to share between threads."""

    def __init__(self, transport: Transport, address: Address, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._transport = transport

    def generate(
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
        """Ask and wait for the whole answer.

        Args:
            prompt: text, taken as it is. Exactly one of this and messages.
            messages: chat; the model's chat template makes the prompt of it.
            model, version: other than the client's.
            request_id: to find the request in the server's log; made if not given.
            timeout_s: for all tries together; default: the client's, math.inf for none.
            headers: for this request alone (gRPC: metadata).
            parameters: the controls of the request, see ``conch_client.Parameters``; None leaves one out.

        Raises:
            TypeError: a parameter that does not exist.
            ConchClientError: whatever else goes wrong; one class per code.
        """
        request = self._build(False, prompt, messages, model, version, request_id, parameters)
        with self._open(request, False, timeout_s, headers) as stream:
            for _ in stream:
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
    ) -> Stream:
        """Ask and read the answer as it comes. Arguments and errors as for generate.

        Returns:
            Chunks. The request goes out with the first read; close the stream, or read it to its end.
        """
        request = self._build(True, prompt, messages, model, version, request_id, parameters)
        return self._open(request, True, timeout_s, headers)

    def _open(
        self, request: Request, stream: bool, timeout_s: float | None, headers: Mapping[str, str] | None
    ) -> Stream:
        deadline = self._deadline(timeout_s)
        transport = self._transport
        return Stream(lambda: transport.open(request, deadline, headers or {}, stream), request, deadline, self._retry)

    def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """Every version of every model in the server's repository.

        A Conch server shows its repository to administrators alone. For others the list holds the models of a Conch
        release and the client's own: the versions that may be asked, or one line that says UNAVAILABLE.
        """
        deadline = self._deadline(timeout_s)
        try:
            return self._transport.index(deadline)
        except PermissionDeniedError:
            return [m for name in self._with_mine(contract.MODELS) for m in self._loaded(name, deadline)]

    def _loaded(self, name: str, deadline: Deadline) -> list[ModelInfo]:
        if not self._transport.model_ready(name, "", deadline):
            return _as_models(name, ())
        return _as_models(name, self._transport.versions(name, deadline))

    def health(self, *, timeout_s: float | None = 5.0) -> Health:
        """How the server does. One that cannot be reached is not live; that is no error."""
        deadline = self._deadline(timeout_s)
        try:
            live = self._transport.server_live(deadline)
            ready = self._transport.server_ready(deadline)
            names = self._with_mine(contract.ENSEMBLES)
            return Health(live, ready, {name: self._transport.model_ready(name, "", deadline) for name in names})
        except (UnavailableError, DeadlineExceededError) as error:
            return Health(False, False, detail=error.message)

    def metrics(self, *, timeout_s: float | None = None) -> Metrics:
        """What the metrics port says."""
        return fetch_metrics(self._metrics_address, self._deadline(timeout_s))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncBaseClient(_Settings):
    """The calls of AsyncClient and AsyncHttpClient. One event loop each."""

    def __init__(self, transport: AsyncTransport, address: Address, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._transport = transport

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
        deadline = self._deadline(timeout_s)
        transport = self._transport
        return AsyncStream(
            lambda: transport.open(request, deadline, headers or {}, stream), request, deadline, self._retry
        )

    async def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """Every version of every model in the server's repository; see Client.models."""
        deadline = self._deadline(timeout_s)
        try:
            return await self._transport.index(deadline)
        except PermissionDeniedError:
            return [m for name in self._with_mine(contract.MODELS) for m in await self._loaded(name, deadline)]

    async def _loaded(self, name: str, deadline: Deadline) -> list[ModelInfo]:
        if not await self._transport.model_ready(name, "", deadline):
            return _as_models(name, ())
        return _as_models(name, await self._transport.versions(name, deadline))

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
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
