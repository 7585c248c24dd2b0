"""One look at a server: its metrics, Triton's statistics, and which models an ensemble is made of."""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from conch_load.server_side.names import MODEL_TIMES, STATISTICS

TIMEOUT_S = 5.0
_MOST_BYTES = 64 << 20

Values = dict[str, float]  # series, as the text format writes it, to value


class ScrapeError(Exception):
    """A look that failed. The text names the address and what was wrong."""


@dataclass(frozen=True)
class Sample:
    """A series, taken apart."""

    name: str
    labels: Mapping[str, str]


def series(name: str, labels: Mapping[str, str]) -> str:
    """A series as the text format writes it, its labels in order."""
    if not labels:
        return name
    escaped = {k: v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for k, v in labels.items()}
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in sorted(escaped.items())) + "}"


def parse(text: str) -> dict[str, tuple[Sample, float]]:
    """Prometheus' text format, series by series; values that are no numbers (NaN) are left out.

    The lines that begin with # are too: with a type in hand the parser adds _total to the names of Triton's counters.

    Raises:
        ValueError: it is not that format.
    """
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = {}
    for family in text_string_to_metric_families(plain + "\n"):
        for one in family.samples:
            if not math.isnan(one.value):
                found[series(one.name, one.labels)] = (Sample(one.name, one.labels), float(one.value))
    return found


def get(url: str, timeout_s: float = TIMEOUT_S) -> str:
    """The text at an address.

    Raises:
        ScrapeError: it cannot be had.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as page:
            return str(page.read(_MOST_BYTES).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        raise ScrapeError(f"{url}: HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ScrapeError(f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}") from error


def metrics(url: str) -> Values:
    """What a metrics port says now.

    Raises:
        ScrapeError: it cannot be had, or is not Prometheus' text format.
    """
    text = get(url)
    try:
        return {key: value for key, (_, value) in parse(text).items()}
    except ValueError as error:
        raise ScrapeError(f"{url}: not Prometheus' text format: {error}") from error


def statistics(url: str) -> Values:
    """Triton's statistics of all models, as series of the name STATISTICS with labels model, version, what, unit.

    Args:
        url: of Triton's HTTP port.

    Raises:
        ScrapeError: they cannot be had, or are not what Triton sends.
    """
    address = f"{url.rstrip('/')}/v2/models/stats"
    text = get(address)
    try:
        return {key: value for one in json.loads(text)["model_stats"] for key, value in _of_model(one).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScrapeError(f"{address}: not Triton's statistics: {type(error).__name__} {error}") from error


def _of_model(told: Mapping[str, Any]) -> Values:
    found: Values = {}

    def put(what: str, unit: str, value: Any) -> None:
        labels = {"model": told["name"], "version": str(told["version"]), "what": what, "unit": unit}
        found[series(STATISTICS, labels)] = float(value)

    put("execution", "count", told.get("execution_count", 0))
    put("inference", "count", told.get("inference_count", 0))
    for what in MODEL_TIMES:
        if what in told["inference_stats"]:
            for unit in ("count", "ns"):
                put(what, unit, told["inference_stats"][what].get(unit, 0))
    return found


@dataclass(frozen=True)
class Model:
    """What a model's config says of it.

    Attributes:
        steps: of an ensemble: the models that it is made of, in order; empty otherwise.
        decoupled: it may answer many times, so Triton's times of it end when its ``execute`` returns.
    """

    steps: tuple[str, ...]
    decoupled: bool


def topology(url: str, model: str) -> dict[str, Model]:
    """A model and, if it is an ensemble, those that it is made of.

    Args:
        url: of Triton's HTTP port.
        model: the one that clients ask.

    Raises:
        ScrapeError: a config cannot be had.
    """
    found: dict[str, Model] = {}
    waiting = [model]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        address = f"{url.rstrip('/')}/v2/models/{name}/config"
        try:
            told = json.loads(get(address))
            steps = [step["model_name"] for step in told.get("ensemble_scheduling", {}).get("step", [])]
            decoupled = bool(told.get("model_transaction_policy", {}).get("decoupled", False))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScrapeError(f"{address}: not a model's config: {type(error).__name__} {error}") from error
        found[name] = Model(tuple(dict.fromkeys(steps)), decoupled)
        waiting += steps
    return found
