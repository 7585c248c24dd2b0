"""Where the server listens and what it serves: flags and environment variables, parsed once at the edge."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conch import contract
from conch.errors import InvalidArgumentError

DEFAULT_REPOSITORY = Path("model_repository")
DEFAULT_RUN_DIR = Path(".run")
DEFAULT_DRAIN_TIMEOUT_S = 30
DEFAULT_START_TIMEOUT_S = 600
DEFAULT_PROBE_INTERVAL_S = 5
DEFAULT_HANG_TIMEOUT_S = 30


@dataclass(frozen=True)
class Settings:
    """What one server is told.

    Attributes:
        repository: the model repository, absolute.
        run_dir: folder of the pid file, the state, the admin key and the logs, absolute.
        host: IPv4 address to listen on.
        http_port, grpc_port, metrics_port: three different ports.
        drain_timeout_s: how long requests in flight may take to end after a stop.
        start_timeout_s: how long the models may take to load.
        probe_interval_s: how often every part is asked whether it still answers.
        hang_timeout_s: how long one may be silent before the server is started anew.
    """

    repository: Path
    run_dir: Path
    host: str = contract.DEFAULT_HOST
    http_port: int = contract.DEFAULT_HTTP_PORT
    grpc_port: int = contract.DEFAULT_GRPC_PORT
    metrics_port: int = contract.DEFAULT_METRICS_PORT
    drain_timeout_s: int = DEFAULT_DRAIN_TIMEOUT_S
    start_timeout_s: int = DEFAULT_START_TIMEOUT_S
    probe_interval_s: int = DEFAULT_PROBE_INTERVAL_S
    hang_timeout_s: int = DEFAULT_HANG_TIMEOUT_S

    @property
    def ports(self) -> dict[str, int]:
        """Environment variable -> port."""
        return {
            contract.HTTP_PORT_VARIABLE: self.http_port,
            contract.GRPC_PORT_VARIABLE: self.grpc_port,
            contract.METRICS_PORT_VARIABLE: self.metrics_port,
        }

    @property
    def connect_host(self) -> str:
        """An address that reaches the server from this machine."""
        return contract.DEFAULT_HOST if self.host == "0.0.0.0" else self.host


def settings_from_environment(
    environment: Mapping[str, str],
    *,
    repository: Path = DEFAULT_REPOSITORY,
    run_dir: Path = DEFAULT_RUN_DIR,
    drain_timeout_s: int = DEFAULT_DRAIN_TIMEOUT_S,
    start_timeout_s: int = DEFAULT_START_TIMEOUT_S,
    probe_interval_s: int = DEFAULT_PROBE_INTERVAL_S,
    hang_timeout_s: int = DEFAULT_HANG_TIMEOUT_S,
) -> Settings:
    """Settings from the environment's host and ports, and from the given folders.

    Raises:
        InvalidArgumentError: a variable is not a port or an address, or two ports are equal.
    """
    settings = Settings(
        repository=repository.absolute(),
        run_dir=run_dir.absolute(),
        host=_host(environment),
        http_port=_port(environment, contract.HTTP_PORT_VARIABLE, contract.DEFAULT_HTTP_PORT),
        grpc_port=_port(environment, contract.GRPC_PORT_VARIABLE, contract.DEFAULT_GRPC_PORT),
        metrics_port=_port(environment, contract.METRICS_PORT_VARIABLE, contract.DEFAULT_METRICS_PORT),
        drain_timeout_s=drain_timeout_s,
        start_timeout_s=start_timeout_s,
        probe_interval_s=probe_interval_s,
        hang_timeout_s=hang_timeout_s,
    )
    seen: dict[int, str] = {}
    for variable, port in settings.ports.items():
        if port in seen:
            raise InvalidArgumentError(f"{variable} must differ from {seen[port]}, got {port} for both")
        seen[port] = variable
    return settings


def _port(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, "")
    if not text:
        return default
    # isdecimal alone would let other scripts' digits and an endless number through to int().
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InvalidArgumentError(f"{variable} must be a port number in [1, 65535], got {text!r}")
    return int(text)


def _host(environment: Mapping[str, str]) -> str:
    text = environment.get(contract.HOST_VARIABLE, "")
    if text in ("", "localhost"):
        return contract.DEFAULT_HOST
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        rule = "must be an IPv4 address or localhost (0.0.0.0 listens on every interface)"
        raise InvalidArgumentError(f"{contract.HOST_VARIABLE} {rule}, got {text!r}") from None
