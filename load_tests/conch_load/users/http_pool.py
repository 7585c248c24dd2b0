"""HTTP/1.1 connections that are kept, for greenlets: as many as there are requests under way."""

from __future__ import annotations

import http.client
import time
from collections.abc import Generator, Iterator, Mapping

from conch_client.address import Address
from conch_client.errors import ConchClientError
from conch_client.http_wire import EventParser, connect, context_of

from conch_load.users.exchange import BAD_RESPONSE, CONNECTION, CUT, TIMEOUT, Exchange

_READ_BYTES = 1 << 16


class StatusError(Exception):
    """An answer whose status is not 200.

    Attributes:
        status, body: what came.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP status {status}")
        self.status, self.body = status, body


class HttpPool:
    """Connections to one server.

    Args:
        address: where.
        timeout_s: that a single wait may take.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._context = context_of(address)
        self._idle: list[http.client.HTTPConnection] = []

    def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Ask for a page: (status, body).

        Raises:
            OSError, http.client.HTTPException: it cannot be had.
        """
        connection = connect(self._address, self._context, self._timeout_s)
        try:
            connection.request("GET", self._address.path + path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], exchange: Exchange
    ) -> Generator[bytes, None, None]:
        """Send a body; yield the pieces of the answer's as they arrive. Stamps ``exchange.sent_ns``.

        A kept connection that turns out to be closed before a byte of the answer came is replaced once: that is no
        error of the server's. The time that this takes counts.

        Raises:
            StatusError: the status is not 200.
            OSError, http.client.HTTPException: the connection could not be made, or broke.
        """
        connection, kept = self._take()
        exchange.sent_ns = time.monotonic_ns()
        try:
            try:
                response = self._ask(connection, path, body, headers)
            except (ConnectionError, http.client.RemoteDisconnected):
                connection.close()
                if not kept:
                    raise
                connection = connect(self._address, self._context, self._timeout_s)
                response = self._ask(connection, path, body, headers)
            if response.status != 200:
                raise StatusError(response.status, response.read())
            while piece := response.read1(_READ_BYTES):
                yield piece
            if response.length:  # Content-Length promised more
                raise http.client.IncompleteRead(b"", response.length)
        except BaseException:
            connection.close()
            raise
        response.close()  # else http.client takes the connection for busy after an answer of a known length
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        if self._idle:
            return self._idle.pop(), True
        return connect(self._address, self._context, self._timeout_s), False

    def _ask(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        connection.request("POST", self._address.path + path, body, {"Content-Type": "application/json", **headers})
        return connection.getresponse()


def events(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """Server-sent events of a body: (data, when it arrived).

    Raises:
        http.client.IncompleteRead: the body ended within an event.
    """
    parser = EventParser()
    for piece in pieces:
        now = time.monotonic_ns()
        for data in parser.feed(piece):
            yield data, now
    try:
        parser.check_end()
    except ConchClientError:
        raise http.client.IncompleteRead(b"") from None


def note_broken(exchange: Exchange, error: Exception, timeout_s: float) -> None:
    """A connection could not be made, or broke."""
    exchange.end()
    if isinstance(error, TimeoutError):
        exchange.fail(TIMEOUT, f"nothing came for {timeout_s:g} s")
    elif exchange.chunk_ns or isinstance(error, http.client.IncompleteRead):
        exchange.fail(CUT, f"the stream broke off: {type(error).__name__}: {error}")
    elif isinstance(error, OSError):
        exchange.fail(CONNECTION, f"{type(error).__name__}: {error}")
    else:
        exchange.fail(BAD_RESPONSE, f"{type(error).__name__}: {error}")
