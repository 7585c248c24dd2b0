"""The four clients: gRPC and HTTP, each with threads and with asyncio. Same methods, same results, same errors."""

from __future__ import annotations

from collections.abc import Mapping

from conch_client import _contract as contract
from conch_client.address import grpc_address, http_address
from conch_client.base import DEFAULT_TIMEOUT_S, SyncClient
from conch_client.base_aio import AsyncBaseClient
from conch_client.grpc_aio_transport import AsyncGrpcTransport
from conch_client.grpc_transport import GrpcTransport
from conch_client.http_transport import HttpTransport
from conch_client.request import check_headers
from conch_client.retry import Retry
from conch_client.types import Tls


class Client(SyncClient):
    """gRPC.

    Args:
        url: ``host:port``, or with ``grpc://`` or ``grpcs://``; default: CONCH_HOST and CONCH_GRPC_PORT, or
            127.0.0.1:8001.
        model, version: what is asked if a request does not say; no version: the one that the server chooses.
        timeout_s: for one request, all its tries together; None: no limit.
        retry: when to try again.
        headers: metadata of every call.
        tls: certificates and key; default with ``grpcs://``: gRPC's own list of certificates.
        metrics_url: of the metrics port; default: CONCH_METRICS_PORT or 8002 of the same host.

    Raises:
        InvalidArgumentError: an argument that cannot be.
    """

    def __init__(
        self, url: str | None = None, *, model: str = contract.DEFAULT_MODEL, version: str | int | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S, retry: Retry | None = None,
        headers: Mapping[str, str] | None = None, tls: Tls | None = None, metrics_url: str | None = None,
    ) -> None:  # fmt: skip
        address = grpc_address(url, tls)
        super().__init__(
            GrpcTransport(address, check_headers(headers)), address, model=model, version=version, timeout_s=timeout_s,
            retry=retry, metrics_url=metrics_url,
        )  # fmt: skip


class AsyncClient(AsyncBaseClient):
    """gRPC with asyncio. Arguments as for Client."""

    def __init__(
        self, url: str | None = None, *, model: str = contract.DEFAULT_MODEL, version: str | int | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S, retry: Retry | None = None,
        headers: Mapping[str, str] | None = None, tls: Tls | None = None, metrics_url: str | None = None,
    ) -> None:  # fmt: skip
        address = grpc_address(url, tls)
        super().__init__(
            AsyncGrpcTransport(address, check_headers(headers)), address, model=model, version=version,
            timeout_s=timeout_s, retry=retry, metrics_url=metrics_url,
        )  # fmt: skip


class HttpClient(SyncClient):
    """HTTP. Arguments as for Client.

    The url is ``host:port``, ``http://...`` or ``https://...``; default: CONCH_HOST and CONCH_HTTP_PORT, or
    127.0.0.1:8000. A path in it goes in front of ``/v2``. Triton itself has no TLS on HTTP, a proxy may.
    """

    def __init__(
        self, url: str | None = None, *, model: str = contract.DEFAULT_MODEL, version: str | int | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S, retry: Retry | None = None,
        headers: Mapping[str, str] | None = None, tls: Tls | None = None, metrics_url: str | None = None,
    ) -> None:  # fmt: skip
        address = http_address(url, tls)
        super().__init__(
            HttpTransport(address, check_headers(headers)), address, model=model, version=version, timeout_s=timeout_s,
            retry=retry, metrics_url=metrics_url,
        )  # fmt: skip


class AsyncHttpClient(AsyncBaseClient):
    """HTTP with asyncio. Arguments as for HttpClient."""

    def __init__(
        self, url: str | None = None, *, model: str = contract.DEFAULT_MODEL, version: str | int | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S, retry: Retry | None = None,
        headers: Mapping[str, str] | None = None, tls: Tls | None = None, metrics_url: str | None = None,
    ) -> None:  # fmt: skip
        from conch_client.http_aio_transport import AsyncHttpTransport  # aiohttp is a third of the time to import all

        address = http_address(url, tls)
        super().__init__(
            AsyncHttpTransport(address, check_headers(headers)), address, model=model, version=version,
            timeout_s=timeout_s, retry=retry, metrics_url=metrics_url,
        )  # fmt: skip
