"""gRPC calls over HTTP/2 (RFC 9113) in one thread: what takes the stamps is what reads the socket.

Under gevent, grpcio hands every message from a thread of its own to the loop. On a machine that is busy each of these
hand-overs waits for its turn twice, and the time to the first token shows it; this costs a fifth of the processor time
as well. It is one connection, many calls at a time, one message sent for each; flow control towards us is open wide.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

import gevent
import hpack
from gevent.event import Event
from gevent.queue import SimpleQueue

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS, _ACK, _PADDED, _PRIORITY = 0x1, 0x4, 0x1, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 3, 4, 5
_DEFAULT_TABLE = 4096
_DEFAULT_WINDOW, _WIDEST, _DEFAULT_FRAME = 2**16 - 1, 2**31 - 1, 2**14
_WIDEN_AFTER = 2**29
_CANCEL = 8
_READ_BYTES = 1 << 18
_FRAME = struct.Struct(">HBBBI")  # length in two parts, type, flags, stream


class CallBrokenError(Exception):
    """The connection could not be made, closed, or the server reset the call."""


class GrpcStatusError(Exception):
    """The call ended with a status that is not OK.

    Attributes:
        code: number of the status; details: its text.
    """

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class Call:
    """One call: what has arrived waits here for its greenlet."""

    def __init__(self, connection: Http2Connection, stream: int) -> None:
        self._connection, self._stream = connection, stream
        self._arrived: SimpleQueue = SimpleQueue()  # (stamp, payload of DATA), or how it ended
        self._body = bytearray()
        self.over = False

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Each message with the moment that its last byte was read (monotonic ns), to the end of the call.

        Raises:
            CallBrokenError: the connection or the call broke off.
            GrpcStatusError: the call ended with an error.
        """
        while True:
            at_ns, what = self._arrived.get()
            if isinstance(what, Exception):
                raise what
            if what is None:
                return
            self._body += what
            yield from ((at_ns, message) for message in self._whole())

    def cancel(self) -> None:
        """Tell the server that nobody listens any more. No harm after the end."""
        if not self.over:
            self.over = True
            self._connection.forget(self._stream, reset=True)

    def take(self, at_ns: int, what: bytes | Exception | None) -> None:
        """From the connection: data, an error, or the end."""
        if not isinstance(what, bytes):
            self.over = True
        self._arrived.put((at_ns, what))

    def _whole(self) -> list[bytes]:
        found, position, body = [], 0, self._body
        while len(body) - position >= 5:
            (length,) = struct.unpack_from(">I", body, position + 1)
            if len(body) - position < 5 + length:
                break
            found.append(bytes(body[position + 5 : position + 5 + length]))
            position += 5 + length
        del body[:position]
        return found


class Http2Connection:
    """One connection; for many greenlets of one thread.

    Args:
        host, port: of the server.
        tls: None for plain text.
        timeout_s: for making the connection.

    Raises:
        CallBrokenError: it could not be made.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._scheme = "https" if tls else "http"
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                tls.set_alpn_protocols(["h2"])
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
            self._socket.settimeout(None)
        except OSError as error:
            raise CallBrokenError(f"cannot reach {self._authority}: {error.strerror or error}") from None
        self._decoder, self._encoder = hpack.Decoder(), hpack.Encoder()
        self._decoder.max_allowed_table_size = 1 << 16
        self._calls: dict[int, Call] = {}
        self._next_stream = 1
        self._window, self._initial, self._frame_bytes = _DEFAULT_WINDOW, _DEFAULT_WINDOW, _DEFAULT_FRAME
        self._windows: dict[int, int] = {}
        self._widened = Event()
        self._most_calls, self._ended = _WIDEST, Event()
        self._unread, self._block = b"", b""
        self._taken_bytes = 0
        self._out, self._sending = bytearray(), False
        self.broken: CallBrokenError | None = None
        settings = struct.pack(">HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, _WIDEST)
        widen = struct.pack(">I", _WIDEST - _DEFAULT_WINDOW)
        self._send(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, widen))
        self._reader = gevent.spawn(self._read)

    def call(self, path: str, message: bytes, timeout_s: float) -> Call:
        """Send a message as a call of its own. Waits while the server takes no more calls, or its window is too small.

        Raises:
            CallBrokenError: the connection is gone.
        """
        while len(self._calls) >= self._most_calls and not self.broken:
            self._ended.clear()
            self._ended.wait()
        if self.broken:
            raise self.broken
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        call = self._calls[stream] = Call(self, stream)
        self._windows[stream] = self._initial
        head = self._encoder.encode([
            (":method", "POST"), (":scheme", self._scheme), (":path", path), (":authority", self._authority),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", f"{int(timeout_s * 1e3)}m"),
        ])  # fmt: skip
        start = _frame(_HEADERS, _END_HEADERS, stream, head)
        self._send_body(stream, start, b"\0" + struct.pack(">I", len(message)) + message)
        return call

    def forget(self, stream: int, *, reset: bool) -> None:
        """Take nothing more of a call."""
        if self._calls.pop(stream, None) and reset and not self.broken:
            self._send(_frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)))
        self._windows.pop(stream, None)
        self._ended.set()

    def close(self) -> None:
        """Close; calls under way break."""
        self._reader.kill(block=False)
        self._break(CallBrokenError("the connection was closed"))

    # --- sending ------------------------------------------------------------------------------------------------

    def _send_body(self, stream: int, start: bytes, body: bytes) -> None:
        while True:
            room = max(0, min(self._window, self._windows.get(stream, 0), self._frame_bytes))
            part, body = body[:room], body[room:]
            self._window -= len(part)
            if stream in self._windows:
                self._windows[stream] -= len(part)
            data = _frame(_DATA, 0 if body else _END_STREAM, stream, part) if part else b""
            if start or data:
                self._send(start + data)
            start = b""
            if not body or stream not in self._calls:
                return
            if not part:
                self._widened.clear()
                self._widened.wait()

    def _send(self, data: bytes) -> None:
        """In the order of the calls: while one greenlet waits for the socket, others leave theirs with it."""
        self._out += data
        if self._sending:
            return
        self._sending = True
        try:
            while self._out:
                out, self._out = bytes(self._out), bytearray()
                self._socket.sendall(out)
            self._sending = False
        except OSError as error:
            self._break(CallBrokenError(f"the connection broke: {error.strerror or error}"))
            assert self.broken
            raise self.broken from None

    # --- receiving ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while arrived := self._socket.recv(_READ_BYTES):
                self._take_all(time.monotonic_ns(), self._unread + arrived)
            self._break(CallBrokenError("the server closed the connection"))
        except (OSError, hpack.HPACKError, struct.error, CallBrokenError) as error:
            self._break(CallBrokenError(f"the connection broke: {error}"))

    def _take_all(self, now: int, data: bytes) -> None:
        position, size = 0, len(data)
        while size - position >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            end = position + 9 + (high << 8 | low)
            if end > size:
                break
            if kind == _DATA and not flags & _PADDED:  # one for every token
                self._take_data(now, stream, flags, data[position + 9 : end])
            else:
                self._take(now, kind, flags, stream, data[position + 9 : end])
            position = end
        self._unread = data[position:]

    def _take_data(self, now: int, stream: int, flags: int, payload: bytes) -> None:
        self._taken_bytes += len(payload)
        if self._taken_bytes > _WIDEN_AFTER:
            self._send(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._taken_bytes)))
            self._taken_bytes = 0
        call = self._calls.get(stream)
        if call is not None:
            call.take(now, payload)
            if flags & _END_STREAM:
                self._end(now, stream, CallBrokenError("the call ended without a status"))

    def _take(self, now: int, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_DATA, _HEADERS) and flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == _DATA:
            self._take_data(now, stream, flags, payload)
        elif kind in (_HEADERS, _CONTINUATION):
            self._take_headers(now, kind, flags, stream, payload)
        elif kind == _RST_STREAM:
            self._end(now, stream, CallBrokenError(f"the server reset the call, code {int.from_bytes(payload, 'big')}"))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._send(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        elif kind == _GOAWAY:
            self._say_goodbye(now, int.from_bytes(payload[:4], "big") & _WIDEST, payload[8:].decode("utf-8", "replace"))

    def _say_goodbye(self, now: int, last_stream: int, why: str) -> None:
        """No new calls; those that the server has not begun end, the others go on."""
        self.broken = CallBrokenError(f"the server said goodbye: {why!r}")
        for stream in [one for one in self._calls if one > last_stream]:
            self._end(now, stream, self.broken)
        self._widened.set()
        self._ended.set()

    def _take_headers(self, now: int, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._block = payload[5:] if flags & _PRIORITY else payload
            self._ends = bool(flags & _END_STREAM)
        else:
            self._block += payload
        if not flags & _END_HEADERS:
            return
        headers = dict(_texts(self._decoder.decode(self._block)))
        if self._ends:
            self._end(now, stream, _status(headers))
        elif headers.get(":status", "200") != "200":
            self._end(now, stream, CallBrokenError(f"HTTP status {headers[':status']}: no gRPC server"))

    def _take_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                self._windows = {one: left + value - self._initial for one, left in self._windows.items()}
                self._initial = value
            elif name == _MAX_FRAME_SIZE:
                self._frame_bytes = value
            elif name == _MAX_CONCURRENT_STREAMS:
                self._most_calls = value
            elif name == _HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, _DEFAULT_TABLE)
        self._send(_frame(_SETTINGS, _ACK, 0, b""))
        self._widened.set()
        self._ended.set()

    def _widen(self, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        elif stream in self._windows:
            self._windows[stream] += by
        self._widened.set()

    def _end(self, now: int, stream: int, how: Exception | None) -> None:
        call = self._calls.get(stream)
        self.forget(stream, reset=False)
        if call is not None:
            call.take(now, how)

    def _break(self, why: CallBrokenError) -> None:
        self.broken = self.broken or why
        self._socket.close()
        now = time.monotonic_ns()
        for stream in list(self._calls):
            self._end(now, stream, why)
        self._widened.set()
        self._ended.set()


def _status(headers: dict[str, str]) -> Exception | None:
    """What the trailers say: None is OK."""
    code = headers.get("grpc-status", "")
    if code == "0":
        return None
    if not code.isdigit():
        return CallBrokenError(f"the call ended without a status (HTTP status {headers.get(':status', 'none')})")
    return GrpcStatusError(int(code), unquote(headers.get("grpc-message", "")))


def _texts(headers: Iterable[tuple[bytes | str, bytes | str]]) -> Iterator[tuple[str, str]]:
    for name, value in headers:
        yield (name if isinstance(name, str) else name.decode("latin-1"),
               value if isinstance(value, str) else value.decode("latin-1"))  # fmt: skip


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload
