"""HTTP without sockets' details: paths, bodies, server-sent events, errors. For both HTTP transports."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from typing import Any
from urllib.parse import quote

from conch_client import _contract as contract
from conch_client.address import Address
from conch_client.answers import chunk_of_values
from conch_client.errors import ConchClientError, InternalError, UnavailableError, error_of_http, error_of_text
from conch_client.request import Request
from conch_client.retry import Deadline
from conch_client.tls import ssl_context
from conch_client.types import Chunk, ModelInfo

_UNEXPECTED = (ValueError, TypeError, KeyError, AttributeError)  # of JSON that is none, or holds something else


def generate_path(request: Request, stream: bool) -> str:
    """Path of a generation, below the address's own."""
    return f"{model_path(request.model, request.version)}/{'generate_stream' if stream else 'generate'}"


def model_path(model: str, version: str) -> str:
    """Path of a model or of one of its versions."""
    return f"/v2/models/{quote(model, safe='')}" + (f"/versions/{version}" if version else "")


def body_of(request: Request) -> bytes:
    """JSON of a generation: each tensor by its name, as a number, a text or a list."""
    fields = {"id": request.request_id, **{name: value for name, _, value in request.tensors}}
    return json.dumps(fields, ensure_ascii=False).encode()


def chunk_of(data: str | bytes, request: Request, started: bool) -> Chunk:
    """One response of a model.

    Args:
        data: its JSON.
        request: what it answers.
        started: there was a response before it.

    Raises:
        ConchClientError: it is an error, or no JSON.
    """
    try:
        fields = json.loads(data)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise InternalError(f"the server's response must be a JSON object, got {data[:200]!r}")
    if "error" in fields:
        raise error_of_text(str(fields["error"]), "INTERNAL" if started else "INVALID_ARGUMENT", request.request_id)
    text_name = contract.RENAMES.get(request.model, {}).get(contract.TEXT_OUTPUT, contract.TEXT_OUTPUT)
    values = {contract.TEXT_OUTPUT: _listed(fields.get(text_name, ""))}
    if not all(isinstance(text, str) for text in values[contract.TEXT_OUTPUT]):
        raise InternalError(f"{text_name} of the server's response must be text, got {data[:200]!r}")
    values |= {name: _listed(fields[name]) for name in contract.REPORTED if name in fields}
    return chunk_of_values(values, fields.get("model_version", ""))


def _listed(value: Any) -> list[Any]:
    """Triton writes a tensor of one element as the element."""
    return value if isinstance(value, list) else [value]


def status_error(status: int, body: bytes, request_id: str | None = None) -> ConchClientError:
    """The error of a response whose status is not 200. The body is JSON, or one event of a stream."""
    text = body.decode("utf-8", "replace").strip().removeprefix("data:").strip()
    try:
        message = str(json.loads(text)["error"])
    except (ValueError, TypeError, KeyError):
        message = f"HTTP status {status}" + (f": {text[:200]}" if text and not text.startswith("<") else "")
    return error_of_http(status, message, request_id)


def models_of(body: bytes) -> list[ModelInfo]:
    """The repository index.

    Raises:
        InternalError: it is none.
    """
    try:
        index = json.loads(body)
        if isinstance(index, list):
            more = ("version", "state", "reason")
            return [ModelInfo(str(m["name"]), *(str(m.get(name, "")) for name in more)) for m in index]
    except _UNEXPECTED:
        pass
    raise InternalError(f"the server's list of models must be a JSON list of objects, got {body[:200]!r}")


def versions_of(body: bytes) -> list[str]:
    """The versions in a model's metadata.

    Raises:
        InternalError: it is none.
    """
    try:
        return [str(version) for version in json.loads(body)["versions"]]
    except _UNEXPECTED:
        raise InternalError(f"a model's metadata must be a JSON object with versions, got {body[:200]!r}") from None


class EventParser:
    """Server-sent events from bytes, wherever those were cut: within a line, within a character."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """Take bytes; give the data of each event that they complete."""
        events: list[bytes] = []
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def check_end(self) -> None:
        """Raises:
        UnavailableError: the stream ended within an event.
        """
        if self._rest.strip() or self._data:
            raise UnavailableError("the connection ended within a response")


def context_of(address: Address) -> ssl.SSLContext | None:
    """TLS settings of an address; None for plain text.

    Raises:
        InvalidArgumentError: a file that cannot be used.
    """
    return None if address.tls is None else ssl_context(address.tls)


def connect(
    address: Address, context: ssl.SSLContext | None, timeout_s: float | None
) -> http.client.HTTPConnection:
    """A connection that is not open yet; each wait on it may take ``timeout_s``."""
    if context is None:
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=context)


def connection_error(error: BaseException, address: Address, deadline: Deadline) -> ConchClientError:
    """The error of a connection that could not be made, or broke."""
    if isinstance(error, TimeoutError):
        return deadline.exceeded()
    if isinstance(error, socket.gaierror):
        return UnavailableError(f"cannot reach {address}: {error.strerror}")
    if isinstance(error, (ConnectionRefusedError, ssl.SSLError)):
        # asyncio has texts of its own for a connection refused; the number is the same everywhere.
        number = error.errno if isinstance(error, ConnectionRefusedError) else None
        return UnavailableError(f"cannot reach {address}: {os.strerror(number) if number else error.strerror or error}")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UnavailableError(f"the connection to {address} broke: {reason}")
