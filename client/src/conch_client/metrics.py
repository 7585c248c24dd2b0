"""The server's metrics: Prometheus text, as it is and parsed."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass, field

from conch_client.address import Address
from conch_client.errors import InternalError, UnavailableError, error_of_http
from conch_client.http_wire import connect, connection_error
from conch_client.retry import Deadline

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?\s*')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass(frozen=True)
class Sample:
    """One number.

    Attributes:
        name, labels: which.
        value: the number; its unit is in the name.
    """

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Metrics:
    """Everything that the metrics port said at one moment.

    Attributes:
        text: as it came.
        samples: each number in it, in the same order.
    """

    text: str
    samples: tuple[Sample, ...] = field(repr=False)

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name whose labels include these; 0 if there are none."""
        wanted = labels.items()
        return sum((s.value for s in self.samples if s.name == name and wanted <= s.labels.items()), 0.0)


def parse_metrics(text: str) -> Metrics:
    """Parse Prometheus text.

    Raises:
        InternalError: a line is none; it is shown.
    """
    lines = (line.strip() for line in text.split("\n"))
    return Metrics(text, tuple(_sample(line) for line in lines if line and not line.startswith("#")))


def _sample(line: str) -> Sample:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise InternalError(f"metrics must be Prometheus text, got the line {line!r}")
    labels = {key: _unescaped(text) for key, text in _LABEL.findall(match[2] or "")}
    try:
        return Sample(match[1], labels, float(match[3]))
    except ValueError:
        raise InternalError(f"metrics must be Prometheus text, got the line {line!r}") from None


def _unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), text)


def fetch_metrics(address: Address, deadline: Deadline) -> Metrics:
    """Read the metrics port.

    Raises:
        ConchClientError: it cannot be reached, or answers with an error.
    """
    connection = connect(address, deadline.remaining_s())
    try:
        connection.request("GET", f"{address.path}/metrics")
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise connection_error(error, address, deadline) from error
    finally:
        connection.close()
    if response.status == 404:
        raise UnavailableError(f"no metrics at {address}")
    if response.status != 200:
        raise error_of_http(response.status, text)
    return parse_metrics(text)
