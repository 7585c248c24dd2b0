"""The load generator's HTTP/2 client against a peer that follows a script, frame by frame."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import hpack
import pytest
from conch_load.users import http2
from conch_load.users.http2 import CallBrokenError, Http2Connection
from gevent import socket as gevent_socket

DATA, HEADERS, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 4, 7, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
MESSAGE = b"\0\0\0\0\2hi"
TIMEOUT_S = 10


@pytest.fixture(autouse=True)
def _loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sockets give way to each other, as under Locust; the peer's, in a thread of its own, do not."""
    monkeypatch.setattr(http2, "socket", gevent_socket)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Peer:
    """A server's side of one connection."""

    def __init__(self, listener: socket.socket) -> None:
        self._socket, _ = listener.accept()
        self._socket.settimeout(TIMEOUT_S)
        self._file = self._socket.makefile("rb")
        assert self._file.read(24).startswith(b"PRI * HTTP/2.0")
        self._encoder = hpack.Encoder()

    def send(self, *frames: bytes) -> None:
        self._socket.sendall(b"".join(frames))

    def settings(self, name: int, value: int) -> None:
        self.send(frame(SETTINGS, 0, 0, struct.pack(">HI", name, value)))

    def head(self, *fields: tuple[str, str]) -> bytes:
        return bytes(self._encoder.encode(list(fields)))

    def await_frame(self, kind: int) -> int:
        """Read up to the next frame of a kind; its stream."""
        while True:
            length, got, _ = int.from_bytes(self._file.read(3), "big"), *self._file.read(2)
            (stream,) = struct.unpack(">I", self._file.read(4))
            self._file.read(length)
            if got == kind:
                return int(stream)

    def answer(self, stream: int) -> None:
        """A whole answer of one message."""
        self.send(
            frame(HEADERS, END_HEADERS, stream, self.head((":status", "200"))),
            frame(DATA, 0, stream, MESSAGE),
            frame(HEADERS, END_HEADERS | END_STREAM, stream, self.head(("grpc-status", "0"))),
        )

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def connected(script: Callable[[Peer], None]) -> tuple[Http2Connection, threading.Thread]:
    """A connection to a peer that does what ``script`` says, then closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            peer = Peer(listener)
            try:
                script(peer)
            finally:
                peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return Http2Connection("127.0.0.1", listener.getsockname()[1], None, TIMEOUT_S), thread


def texts(connection: Http2Connection, body: bytes = b"x") -> list[bytes]:
    return [message for _, message in connection.call("/p", body, TIMEOUT_S).messages()]


def test_padding_priorities_and_continued_headers_are_read() -> None:
    def script(peer: Peer) -> None:
        stream = peer.await_frame(DATA)
        head = peer.head((":status", "200"), ("x-long", "a" * 300))
        trailers = peer.head(("grpc-status", "0"))
        peer.send(
            frame(HEADERS, PADDED | PRIORITY, stream, b"\4" + bytes(5) + head[:100] + bytes(4)),
            frame(CONTINUATION, 0, stream, head[100:200]),
            frame(CONTINUATION, END_HEADERS, stream, head[200:]),
            frame(DATA, PADDED, stream, b"\3" + MESSAGE[:4] + bytes(3)),
            frame(DATA, PADDED, stream, b"\0" + MESSAGE[4:]),
            frame(HEADERS, END_STREAM | PADDED, stream, b"\1" + trailers + b"\0"),
            frame(CONTINUATION, END_HEADERS, stream),
        )

    connection, thread = connected(script)
    assert texts(connection) == [b"hi"]
    thread.join(TIMEOUT_S)


def test_a_server_that_takes_one_call_at_a_time_gets_one_at_a_time() -> None:
    streams: list[int] = []

    def script(peer: Peer) -> None:
        peer.settings(MAX_CONCURRENT_STREAMS, 1)
        for _ in range(3):
            streams.append(peer.await_frame(DATA))
            peer.answer(streams[-1])

    connection, thread = connected(script)
    assert [texts(connection) for _ in range(3)] == [[b"hi"]] * 3
    assert streams == [1, 3, 5]
    thread.join(TIMEOUT_S)


def test_a_call_waits_until_the_server_takes_another() -> None:
    def script(peer: Peer) -> None:
        peer.settings(MAX_CONCURRENT_STREAMS, 1)
        first = peer.await_frame(DATA)
        peer.answer(first)
        peer.answer(peer.await_frame(DATA))

    connection, thread = connected(script)
    connection._most_calls = 1  # as if the settings had come before the first call
    first = connection.call("/p", b"x", TIMEOUT_S)
    second = connection.call("/p", b"x", TIMEOUT_S)  # returns when the first has ended
    assert first.over
    assert [[text for _, text in call.messages()] for call in (first, second)] == [[b"hi"], [b"hi"]]
    thread.join(TIMEOUT_S)


def test_a_goodbye_ends_what_was_not_begun_and_a_body_half_sent() -> None:
    def script(peer: Peer) -> None:
        peer.settings(INITIAL_WINDOW_SIZE, 10)
        peer.await_frame(DATA)
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0) + b"for repairs"))
        peer.await_frame(SETTINGS)

    connection, _ = connected(script)
    with pytest.raises(CallBrokenError, match="for repairs"):
        texts(connection, bytes(200_000))  # more than any window
    with pytest.raises(CallBrokenError, match="for repairs"):
        connection.call("/p", b"x", TIMEOUT_S)
    connection.close()


def test_a_goodbye_lets_calls_that_were_begun_end() -> None:
    def script(peer: Peer) -> None:
        stream = peer.await_frame(DATA)
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0)))
        peer.answer(stream)

    connection, thread = connected(script)
    assert texts(connection) == [b"hi"]
    thread.join(TIMEOUT_S)
