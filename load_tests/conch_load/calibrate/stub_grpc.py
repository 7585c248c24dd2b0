"""gRPC of the stub: frames of HTTP/2 (RFC 9113) and no library, since a library costs more than what is to be measured.

It does not read headers: a message with inputs is a generation, one without asks whether the model is ready.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Iterator

from tritonclient.grpc import service_pb2 as pb

from conch.contract import (
    FINISH_REASON,
    MAX_TOKENS,
    MESSAGES,
    NUM_INPUT_TOKENS,
    NUM_OUTPUT_TOKENS,
    RETURN_TOKEN_IDS,
    TEXT_INPUT,
    TEXT_OUTPUT,
    TOKEN_IDS,
    TensorSpec,
)
from conch_load.calibrate.stub import LETTER_IDS, MODEL, Stub

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_INITIAL_WINDOW_SIZE, _DEFAULT_WINDOW, _WIDEST = 4, 2**16 - 1, 2**31 - 1
_CANCEL = 8
_FRAME = struct.Struct(">HBBBI")  # length in two parts, type, flags, stream


def _literal(name: str, value: str) -> bytes:
    """A header field without compression (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


_HEAD = b"\x88" + _literal("content-type", "application/grpc")  # 0x88: ":status 200" of the static table
_TRAILERS = _literal("grpc-status", "0")


class GrpcConnection(asyncio.Protocol):
    """One HTTP/2 connection.

    Args:
        stub: answers.
    """

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._unread = b""
        self._greeted = False
        self._bodies: dict[int, bytearray] = {}
        self._window, self._initial = _DEFAULT_WINDOW, _DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self._held: deque[tuple[int, bytes]] = deque()  # frames that wait for the peer's window
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WIDEST)
        self._write(_SETTINGS, 0, 0, settings)
        self._write(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WIDEST - _DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._greeted:
            if len(self._unread) < len(_PREFACE):
                return
            self._unread, self._greeted = self._unread[len(_PREFACE) :], True
        for kind, flags, stream, payload in self._frames():
            self._take(kind, flags, stream, payload)

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        position, data = 0, self._unread
        while len(data) - position >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            end = position + 9 + (high << 8 | low)
            if end > len(data):
                break
            yield kind, flags, stream, data[position + 9 : end]
            position = end
        self._unread = data[position:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._bodies[stream], self._windows[stream] = bytearray(), self._initial
        elif kind == _DATA and stream in self._bodies:
            self._bodies[stream] += payload
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    self._windows = {one: left + value - self._initial for one, left in self._windows.items()}
                    self._initial = value
            self._write(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._write(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big"))
        elif kind == _RST_STREAM:
            self._forget(stream)
        if kind in (_HEADERS, _DATA) and flags & _END_STREAM:
            self._handle(stream, bytes(self._bodies.pop(stream, b"")))

    def _handle(self, stream: int, body: bytes) -> None:
        request = pb.ModelInferRequest.FromString(body[5:])
        if not request.inputs:
            wire = _GrpcWire(self, stream, 0)
            wire.begin()
            ready = pb.ModelReadyRequest.FromString(body[5:]).name == MODEL
            self.send(stream, pb.ModelReadyResponse(ready=ready).SerializeToString())
            wire.end()
            return
        raw = dict(zip((one.name for one in request.inputs), request.raw_input_contents, strict=True))
        prompt = raw.get(TEXT_INPUT.name) or raw[MESSAGES.name]
        tokens = int.from_bytes(raw[MAX_TOKENS.public.name], "little")
        ids = RETURN_TOKEN_IDS.public.name in raw
        self._stub.answer(_GrpcWire(self, stream, len(prompt) - 4, ids), request.id, tokens)

    def head(self, stream: int) -> None:
        """The head of an answer."""
        self._write(_HEADERS, _END_HEADERS, stream, _HEAD)

    def send(self, stream: int, message: bytes) -> None:
        """One message."""
        self._held.append((stream, b"\0" + struct.pack(">I", len(message)) + message))
        self._release()

    def finish(self, stream: int) -> None:
        """The end of an answer."""
        self._held.append((stream, b""))
        self._release()

    def reset(self, stream: int) -> None:
        """Break off."""
        self._write(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))
        self._forget(stream)

    def _release(self) -> None:
        while self._held:
            stream, body = self._held[0]
            left = self._windows.get(stream)
            if left is not None and body and len(body) > min(self._window, left):
                return
            self._held.popleft()
            if left is None:
                continue  # the client has gone
            if body:
                self._window, self._windows[stream] = self._window - len(body), left - len(body)
                self._write(_DATA, 0, stream, body)
            else:
                self._write(_HEADERS, _END_HEADERS | _END_STREAM, stream, _TRAILERS)
                self._forget(stream)

    def _widen(self, stream: int, by: int) -> None:
        if stream == 0:
            self._window += by
        elif stream in self._windows:
            self._windows[stream] += by
        self._release()

    def _forget(self, stream: int) -> None:
        self._bodies.pop(stream, None)
        self._windows.pop(stream, None)

    def _write(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        length = len(payload)
        self._transport.write(_FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload)


class _GrpcWire:
    """ModelStreamInfer."""

    def __init__(self, connection: GrpcConnection, stream: int, prompt_tokens: int, ids: bool = False) -> None:
        self._connection, self._stream, self._prompt_tokens, self._ids = connection, stream, prompt_tokens, ids

    def begin(self) -> None:
        self._connection.head(self._stream)

    def piece(self, text: str, tokens: int, last: bool) -> None:
        answer = pb.ModelStreamInferResponse()
        infer = answer.infer_response
        infer.model_name, infer.model_version = MODEL, "1"
        _add(infer, TEXT_OUTPUT, _bytes(text))
        _add(infer, NUM_OUTPUT_TOKENS, tokens.to_bytes(4, "little"))
        _add(infer, NUM_INPUT_TOKENS, self._prompt_tokens.to_bytes(4, "little"))
        if self._ids:
            raw = b"".join(LETTER_IDS[letter].to_bytes(4, "little") for letter in text)
            infer.outputs.add(name=TOKEN_IDS.name, datatype=TOKEN_IDS.dtype.value, shape=[1, 1, len(text)])
            infer.raw_output_contents.append(raw)
        if last:
            _add(infer, FINISH_REASON, _bytes("length"))
        self._connection.send(self._stream, answer.SerializeToString())

    def end(self) -> None:
        self._connection.finish(self._stream)

    def refuse(self, text: str) -> None:
        self._connection.head(self._stream)
        self._connection.send(self._stream, pb.ModelStreamInferResponse(error_message=text).SerializeToString())
        self._connection.finish(self._stream)

    def cut(self) -> None:
        self._connection.reset(self._stream)


def _add(response: pb.ModelInferResponse, spec: TensorSpec, raw: bytes) -> None:
    response.outputs.add(name=spec.name, datatype=spec.dtype.value, shape=[1, 1])
    response.raw_output_contents.append(raw)


def _bytes(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()
