"""HTTP with asyncio, on aiohttp (which tritonclient[http] brings)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from conch_client.address import Address
from conch_client.errors import ClosedError, ConchClientError
from conch_client.http_wire import (
    EventParser,
    body_of,
    chunk_of,
    connection_error,
    context_of,
    generate_path,
    model_path,
    models_of,
    status_error,
    versions_of,
)
from conch_client.request import Request
from conch_client.retry import Deadline
from conch_client.types import Chunk, ModelInfo

_BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


class AsyncHttpTransport:
    """Calls of a Triton server over kept-alive connections. The session is made with the first call.

    Args:
        address: host, port, TLS and path prefix.
        headers: sent with every request.
    """

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self._ssl = context_of(address) or True
        self._base = f"{'http' if address.tls is None else 'https'}://{address}{address.path}"
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], deadline: Deadline
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of its response.

        Raises:
            ConchClientError: the server cannot be reached, or time is up.
        """
        if self._closed:
            raise ClosedError()
        if self._session is None:
            # No limit: how many requests there are at once is the caller's affair.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=self._ssl))
        fields = {**self._headers, **headers}
        if body is not None:
            fields = {"Content-Type": "application/json", **fields}
        timeout = aiohttp.ClientTimeout(total=deadline.remaining_s())
        try:
            return await self._session.request(method, self._base + path, data=body, headers=fields, timeout=timeout)
        except _BROKEN as error:
            raise self.broken(error, deadline) from error

    def broken(self, error: BaseException, deadline: Deadline) -> ConchClientError:
        """The error of a connection that could not be made, or broke."""
        if isinstance(error, asyncio.TimeoutError):  # before Python 3.11 no TimeoutError of the builtin kind
            return deadline.exceeded()
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return connection_error(cause, self._address, deadline)

    async def open(
        self, request: Request, deadline: Deadline, headers: Mapping[str, str], stream: bool
    ) -> AsyncHttpCall:
        """Send a generation."""
        response = await self.send("POST", generate_path(request, stream), body_of(request), headers, deadline)
        return AsyncHttpCall(self, response, request, deadline, stream)

    async def _get(self, method: str, path: str, deadline: Deadline) -> tuple[int, bytes]:
        response = await self.send(method, path, None, {}, deadline)
        try:
            return response.status, await response.read()
        except _BROKEN as error:
            raise self.broken(error, deadline) from error
        finally:
            response.release()

    async def server_live(self, deadline: Deadline) -> bool:
        """Whether the server answers and is not about to stop."""
        return (await self._get("GET", "/v2/health/live", deadline))[0] == 200

    async def server_ready(self, deadline: Deadline) -> bool:
        """What the server says of itself."""
        return (await self._get("GET", "/v2/health/ready", deadline))[0] == 200

    async def model_ready(self, model: str, version: str, deadline: Deadline) -> bool:
        """Whether a model may be asked; False for one that does not exist."""
        return (await self._get("GET", f"{model_path(model, version)}/ready", deadline))[0] == 200

    async def versions(self, model: str, deadline: Deadline) -> list[str]:
        """As GrpcTransport.versions."""
        status, body = await self._get("GET", model_path(model, ""), deadline)
        if status != 200:
            raise status_error(status, body)
        return versions_of(body)

    async def index(self, deadline: Deadline) -> list[ModelInfo]:
        """The repository index: every version of every model, loaded or not."""
        status, body = await self._get("POST", "/v2/repository/index", deadline)
        if status != 200:
            raise status_error(status, body)
        return models_of(body)

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class AsyncHttpCall:
    """One generation over HTTP."""

    def __init__(
        self, transport: AsyncHttpTransport, response: aiohttp.ClientResponse, request: Request, deadline: Deadline,
        stream: bool,
    ) -> None:  # fmt: skip
        self._transport = transport
        self._response = response
        self._request = request
        self._deadline = deadline
        self._stream = stream
        self._parser = EventParser()
        self._events: list[bytes] = []
        self._started = False
        self._ended = False

    async def __anext__(self) -> Chunk:
        try:
            data = await self._next_data()
        except _BROKEN as error:
            raise self._transport.broken(error, self._deadline) from error
        chunk = chunk_of(data, self._request, self._started)
        self._started = True
        return chunk

    async def _next_data(self) -> bytes:
        if self._events:
            return self._events.pop(0)
        if self._ended:
            raise StopAsyncIteration
        if not self._stream or self._response.status != 200:
            body = await self._response.read()
            self._ended = True
            if self._response.status != 200:
                raise status_error(self._response.status, body)
            return body
        while not self._events:
            received = await self._response.content.readany()
            if not received:
                self._ended = True
                self._parser.check_end()
                raise StopAsyncIteration
            self._events = self._parser.feed(received)
        return self._events.pop(0)

    def close(self) -> None:
        """Give the connection back if the response was read to its end, else close it."""
        if self._ended:
            self._response.release()
        else:
            self._response.close()
