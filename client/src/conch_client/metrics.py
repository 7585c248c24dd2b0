"""The server's metrics: Prometheus text, as it is and parsed."""

from __future__ import annotations

import http.client
import math
import re
from dataclasses import dataclass, field

from conch_client.address import Address
from conch_client.errors import InternalError, UnavailableError, error_of_http
from conch_client.http_wire import connect, connection_error, context_of
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

    def quantile(self, name: str, q: float) -> float:
        """Of everything that a histogram has seen, as PromQL's histogram_quantile reckons it; nan if that is nothing.

        Args:
            name: of the histogram, without _bucket.
            q: in [0, 1].
        """
        buckets: dict[float, float] = {}
        for sample in self.samples:
            if sample.name == f"{name}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
        total = buckets.get(math.inf, 0.0)
        if not total:
            return math.nan
        low = below = 0.0
        for bound, count in sorted(buckets.items()):
            if count >= q * total:
                within = count - below
                return low if bound == math.inf or not within else low + (bound - low) * (q * total - below) / within
            low, below = bound, count
        return low


def short(metrics: Metrics) -> list[str]:
    """The engine in three lines; all releases together, TTFT since they were loaded."""
    if not any(s.name == "conch_num_requests_running" for s in metrics.samples):
        return ["no metrics of an engine"]
    running, waiting = (metrics.total(f"conch_num_requests_{what}") for what in ("running", "waiting"))
    ttft = [metrics.quantile("conch_time_to_first_token_seconds", q) for q in (0.5, 0.95)]
    p50, p95 = ("-" if math.isnan(seconds) else f"{seconds * 1000:.0f} ms" for seconds in ttft)
    return [
        f"requests  {running:.0f} running, {waiting:.0f} waiting",
        f"TTFT      p50 {p50}, p95 {p95}",
        f"KV cache  {metrics.total('conch_kv_cache_usage_perc') * 100:.0f} % in use",
    ]


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
    connection = connect(address, context_of(address), deadline.remaining_s())
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
