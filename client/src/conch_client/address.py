"""Where the server is: a url, or the environment, or the defaults of the contract."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from conch_client import _contract as contract
from conch_client.errors import InvalidArgumentError
from conch_client.types import Tls

_ANY_HOST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # a server may listen on all, a client asks one


@dataclass(frozen=True)
class Address:
    """Host and port of one service.

    Attributes:
        host, port: where.
        tls: None for plain text.
        path: prefix of the HTTP paths, without a slash at its end.
    """

    host: str
    port: int
    tls: Tls | None = None
    path: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def grpc_address(url: str | None, tls: Tls | None) -> Address:
    """Address of gRPC: ``host:port``, ``grpc://``, ``grpcs://``."""
    return _address(url, tls, contract.GRPC_PORT_VARIABLE, contract.DEFAULT_GRPC_PORT, ("grpc", "grpcs"))


def http_address(url: str | None, tls: Tls | None) -> Address:
    """Address of HTTP: ``host:port``, ``http://``, ``https://``, with or without a path in front of /v2."""
    return _address(url, tls, contract.HTTP_PORT_VARIABLE, contract.DEFAULT_HTTP_PORT, ("http", "https"))


def metrics_address(url: str | None, server: Address) -> Address:
    """Address of the metrics port: as told, else the server's host and the default port. Plain HTTP by default."""
    if url is None:
        return Address(server.host, _port(contract.METRICS_PORT_VARIABLE, contract.DEFAULT_METRICS_PORT))
    return _address(url, None, contract.METRICS_PORT_VARIABLE, contract.DEFAULT_METRICS_PORT, ("http", "https"))


def _address(url: str | None, tls: Tls | None, variable: str, default_port: int, schemes: tuple[str, str]) -> Address:
    if url is None:
        host = os.environ.get(contract.HOST_VARIABLE, contract.DEFAULT_HOST)
        return Address(_host(contract.HOST_VARIABLE, _ANY_HOST.get(host, host)), _port(variable, default_port), tls)
    scheme, _, rest = url.rpartition("://")
    if scheme and scheme not in schemes:
        raise InvalidArgumentError(f"url must be host:port or start with {' or '.join(schemes)}://, got {url!r}")
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidArgumentError(f"url must be host:port, got {url!r}") from None
    path = parts.path.rstrip("/")
    if not name or parts.query or parts.fragment or parts.username or (path and scheme not in ("http", "https")):
        raise InvalidArgumentError(f"url must be host:port, got {url!r}")
    if tls is None and scheme == schemes[1]:
        tls = Tls()
    if tls is not None and scheme == schemes[0]:
        raise InvalidArgumentError(f"url must start with {schemes[1]}:// if tls is given, got {url!r}")
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise InvalidArgumentError(f"the path of url must be percent-encoded ASCII, got {url!r}")
    return Address(_host("url", name), port or _port(variable, default_port), tls, path)


def _host(field: str, name: str) -> str:
    """The name as the domain name system knows it, in ASCII."""
    with suppress(UnicodeError):
        known = name.encode("idna").decode("ascii")
        if known.isprintable() and " " not in known:
            return known
    raise InvalidArgumentError(f"the host of {field} must be a name or an address, got {name!r}")


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise InvalidArgumentError(f"{variable} must be a port in [1, 65535], got {text!r}")
    return int(text)
