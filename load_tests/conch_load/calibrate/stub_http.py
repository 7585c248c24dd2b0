"""HTTP/1.1 of the stub: Triton's generate and generate_stream, and the OpenAI API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

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
)
from conch_load.calibrate.stub import LETTER_IDS, MODEL, Stub

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)  # fmt: skip


class HttpConnection(asyncio.Protocol):
    """One connection: one request after the other.

    Args:
        stub: answers.
    """

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        parted = (line.partition(":") for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, _, value in parted}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        body, self._data = rest[:length], rest[length:]
        method, path, _ = lines[0].split(" ")
        if method == "GET":
            self._page(path)
        else:
            self._generate(path, json.loads(body), headers)

    def _page(self, path: str) -> None:
        if path == f"/v2/models/{MODEL}/ready":
            self._whole(200, b"")
        elif path == "/v1/models":
            self._whole(200, json.dumps({"data": [{"id": MODEL}]}).encode())
        elif path == "/stamps":
            self._whole(200, self._stub.stamps_json())
        else:
            self._whole(404, b'{"error": "not found"}')

    def _generate(self, path: str, fields: dict[str, Any], headers: dict[str, str]) -> None:
        if path.startswith("/v1/"):
            chat = path == "/v1/chat/completions"
            prompt = fields.get("prompt") or "".join(m["content"] for m in fields.get("messages", ()))
            wire = _OpenAi(self, chat, len(prompt), self._stub.behaviour.role_chunk)
            self._stub.answer(wire, headers.get("x-request-id", ""), int(fields["max_tokens"]))
            return
        stream = path.endswith("/generate_stream")
        text = fields.get(TEXT_INPUT.name) or fields.get(MESSAGES.name, "")
        wire_type = _Stream if stream else _Whole
        wire_of = wire_type(self, len(text), bool(fields.get(RETURN_TOKEN_IDS.public.name)))
        self._stub.answer(wire_of, str(fields.get("id", "")), int(fields[MAX_TOKENS.public.name]), whole=not stream)

    def _whole(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    # what the wires use
    def write_head(self) -> None:
        """Of a stream."""
        self._transport.write(_STREAM_HEAD)

    def write_event(self, data: str) -> None:
        """One server-sent event, as a chunk of its own."""
        event = f"data: {data}\n\n".encode()
        self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))

    def write_end(self) -> None:
        """The last chunk."""
        self._transport.write(b"0\r\n\r\n")

    def write_whole(self, status: int, fields: dict[str, Any]) -> None:
        """An answer in one."""
        self._whole(status, json.dumps(fields).encode())

    def drop(self) -> None:
        """Break off."""
        self._transport.close()


class _Stream:
    """generate_stream."""

    def __init__(self, connection: HttpConnection, prompt_tokens: int, ids: bool) -> None:
        self._connection, self._prompt_tokens, self._ids = connection, prompt_tokens, ids

    def begin(self) -> None:
        """Triton sends the head with the first response; so nothing here."""
        self._begun = False

    def piece(self, text: str, tokens: int, last: bool) -> None:
        if not self._begun:
            self._connection.write_head()
            self._begun = True
        self._connection.write_event(json.dumps(self._fields(text, tokens, last)))

    def end(self) -> None:
        self._connection.write_end()

    def refuse(self, text: str) -> None:
        self._connection.write_whole(503, {"error": text})

    def cut(self) -> None:
        self._connection.drop()

    def _fields(self, text: str, tokens: int, last: bool) -> dict[str, Any]:
        fields: dict[str, Any] = {"model_name": MODEL, "model_version": "1", TEXT_OUTPUT.name: text}
        fields |= {NUM_OUTPUT_TOKENS.name: tokens, NUM_INPUT_TOKENS.name: self._prompt_tokens}
        if self._ids:
            fields[TOKEN_IDS.name] = [LETTER_IDS[letter] for letter in text]
        return {**fields, FINISH_REASON.name: "length"} if last else fields


class _Whole(_Stream):
    """generate."""

    def piece(self, text: str, tokens: int, last: bool) -> None:
        self._connection.write_whole(200, self._fields(text, tokens, last))

    def end(self) -> None:
        pass


class _OpenAi:
    """completions and chat completions, streamed."""

    def __init__(self, connection: HttpConnection, chat: bool, prompt_tokens: int, role_chunk: bool) -> None:
        self._connection, self._chat, self._role_chunk = connection, chat, role_chunk
        self._usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 0}

    def begin(self) -> None:
        self._connection.write_head()
        if self._chat and self._role_chunk:
            delta = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            self._connection.write_event(json.dumps({"choices": [delta]}))

    def piece(self, text: str, tokens: int, last: bool) -> None:
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if last else None}
        choice |= {"delta": {"content": text}} if self._chat else {"text": text}
        self._usage["completion_tokens"] += tokens
        self._connection.write_event(json.dumps({"choices": [choice]}))

    def end(self) -> None:
        self._connection.write_event(json.dumps({"choices": [], "usage": self._usage}))
        self._connection.write_event("[DONE]")
        self._connection.write_end()

    def refuse(self, text: str) -> None:
        self._connection.write_whole(503, {"error": {"message": text, "code": 503}})

    def cut(self) -> None:
        self._connection.drop()
