"""HTTP with threads, on the standard library.

http.client and not urllib3, because a deadline over the whole answer and a cancel from another thread both need the
socket, which http.client shows and urllib3 hides.
"""

from __future__ import annotations

import http.client
import select
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress

from conch_client.address import Address
from conch_client.errors import ClosedError
from conch_client.http_wire import (
    EventParser,
    body_of,
    chunk_of,
    connect,
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

_BROKEN = (OSError, http.client.HTTPException)
_BROKEN_READ = (*_BROKEN, ValueError)  # a read of a response closed meanwhile
_READ_BYTES = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


def _has_something_to_read(idle: socket.socket) -> bool:
    """So has an idle connection that the server has closed. Not select(), which ends at 1024 open files."""
    poll = select.poll()
    poll.register(idle, select.POLLIN)
    return bool(poll.poll(0))


class HttpTransport:
    """Calls of a Triton server over kept-alive connections, as many as there are requests at once.

    Args:
        address: host, port, TLS and path prefix.
        headers: sent with every request.
    """

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)
        self._context = context_of(address)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._closed = False

    def open(self, request: Request, deadline: Deadline, headers: Mapping[str, str], stream: bool) -> HttpCall:
        """Send a generation."""
        call = HttpCall(self, request, deadline, stream)
        call.send("POST", generate_path(request, stream), body_of(request), headers)
        return call

    def take(self, deadline: Deadline) -> http.client.HTTPConnection:
        """A connection that nobody else uses: an idle one that is still open, or a new one."""
        with self._lock:
            if self._closed:
                raise ClosedError()
            while self._idle:
                connection = self._idle.pop()
                if connection.sock is not None and not _has_something_to_read(connection.sock):
                    return connection
                connection.close()
        connection = connect(self._address, self._context, deadline.remaining_s())
        try:
            connection.connect()
        except _BROKEN as error:
            connection.close()
            raise connection_error(error, self._address, deadline) from error
        return connection

    def give(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose response was read to its end."""
        with self._lock:
            if not self._closed and connection.sock is not None:
                self._idle.append(connection)
                return
        connection.close()

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self._address

    @property
    def headers(self) -> dict[str, str]:
        """Sent with every request."""
        return self._headers

    def _get(self, method: str, path: str, deadline: Deadline) -> tuple[int, bytes]:
        call = HttpCall(self, None, deadline, False)
        try:
            call.send(method, path, None, {})
            return call.whole()
        finally:
            call.close()

    def server_live(self, deadline: Deadline) -> bool:
        """Whether the server answers and is not about to stop."""
        return self._get("GET", "/v2/health/live", deadline)[0] == 200

    def server_ready(self, deadline: Deadline) -> bool:
        """What the server says of itself."""
        return self._get("GET", "/v2/health/ready", deadline)[0] == 200

    def model_ready(self, model: str, version: str, deadline: Deadline) -> bool:
        """Whether a model may be asked; False for one that does not exist."""
        return self._get("GET", f"{model_path(model, version)}/ready", deadline)[0] == 200

    def versions(self, model: str, deadline: Deadline) -> list[str]:
        """As GrpcTransport.versions."""
        status, body = self._get("GET", model_path(model, ""), deadline)
        if status != 200:
            raise status_error(status, body)
        return versions_of(body)

    def index(self, deadline: Deadline) -> list[ModelInfo]:
        """The repository index: every version of every model, loaded or not."""
        status, body = self._get("POST", "/v2/repository/index", deadline)
        if status != 200:
            raise status_error(status, body)
        return models_of(body)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their answer ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class HttpCall:
    """One HTTP request and its response. ``request`` is None for what is no generation."""

    def __init__(self, transport: HttpTransport, request: Request | None, deadline: Deadline, stream: bool) -> None:
        self._transport = transport
        self._request = request
        self._deadline = deadline
        self._stream = stream
        self._parser = EventParser()
        self._events: list[bytes] = []
        self._started = False
        self._ended = False
        self._cancelled = False
        self._closed = False
        self._response: http.client.HTTPResponse | None = None
        self._connection = transport.take(deadline)
        # http.client forgets the socket when the server means to close it; deadlines need it until the end.
        self._socket: socket.socket = self._connection.sock

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Send the request.

        Raises:
            ConchClientError: it could not be sent.
        """
        fields = {**self._transport.headers, **headers}
        if body is not None:
            fields = {"Content-Type": "application/json", **fields}
        try:
            self._socket.settimeout(self._deadline.remaining_s())
            self._connection.request(method, self._transport.address.path + path, body, fields)
        except _BROKEN as error:
            self.close()
            raise connection_error(error, self._transport.address, self._deadline) from error

    def _head(self) -> http.client.HTTPResponse:
        if self._response is None:
            self._socket.settimeout(self._deadline.remaining_s())
            self._response = self._connection.getresponse()
        return self._response

    def whole(self) -> tuple[int, bytes]:
        """Status and body of the response.

        Raises:
            ConchClientError: the connection broke, or time is up.
        """
        try:
            response = self._head()
            parts = []
            while part := self._read(response):
                parts.append(part)
            self._ended = True
            return response.status, b"".join(parts)
        except _BROKEN_READ as error:
            raise connection_error(error, self._transport.address, self._deadline) from error

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        self._socket.settimeout(self._deadline.remaining_s())
        return response.read1(_READ_BYTES)

    def __next__(self) -> Chunk:
        assert self._request is not None
        try:
            data = self._next_data()
        except _BROKEN_READ as error:
            raise connection_error(error, self._transport.address, self._deadline) from error
        chunk = chunk_of(data, self._request, self._started)
        self._started = True
        return chunk

    def _next_data(self) -> bytes:
        if self._events:
            return self._events.pop(0)
        if self._ended:
            raise StopIteration
        response = self._head()
        if not self._stream or response.status != 200:
            status, body = self.whole()
            if status != 200:
                raise status_error(status, body)
            return body
        while not self._events:
            received = self._read(response)
            if not received:
                self._ended = True
                self._parser.check_end()
                raise StopIteration
            self._events = self._parser.feed(received)
        return self._events.pop(0)

    def cancel(self) -> None:
        """Shut the connection down, which ends a read that waits. The server notices when it next writes."""
        self._cancelled = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connection back if the response was read to its end, else close it."""
        if self._closed:
            return
        self._closed = True
        if self._response is not None:
            self._response.close()
        if self._ended and not self._cancelled:
            self._transport.give(self._connection)
        else:
            # Without a reset, a server whose send buffer is full would go on waiting for us.
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._connection.close()
