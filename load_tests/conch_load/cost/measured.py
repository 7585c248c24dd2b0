"""A throughput from a run, or from a search for the largest rate of an SLO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import InvalidArgumentError
from conch_load.analysis.summary import Summary, read_summary
from conch_load.cost.formulas import Counted, positive
from conch_load.records import RUN_FILE, SUMMARY_FILE, BadRecordError
from conch_load.search.result import RESULT_FILE, SCHEMA_VERSION
from conch_load.search.trial import judge


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        tokens_per_s: of the tokens that are counted.
        input_per_output: input tokens for each output token.
        source: where it comes from, and at which rate and SLO.
    """

    tokens_per_s: float
    input_per_output: float
    source: str


def read_measured(place: Path, counted: Counted) -> Measured:
    """The throughput of a run at its SLO, or of the largest rate that a search found.

    Args:
        place: a run folder, a search's folder, or the summary.json or slo.json in it.
        counted: which tokens are counted.

    Raises:
        InvalidArgumentError: it is neither, or its figures must not be used: the run is invalid, its SLO does not hold,
            or the search found no rate.
        OSError: it cannot be read.
    """
    if place.name == RESULT_FILE or (place / RESULT_FILE).is_file():
        return _of_search(place if place.is_file() else place / RESULT_FILE, counted)
    if place.name != SUMMARY_FILE and not (place / RUN_FILE).is_file():
        raise InvalidArgumentError(f"measured must be a run folder, a search's folder, or their JSON, got {place}")
    try:
        summary = read_summary(place)
    except BadRecordError as error:
        raise InvalidArgumentError(str(error)) from error
    return _of_summary(summary, counted, place)


def _of_summary(summary: Summary, counted: Counted, place: Path) -> Measured:
    if not summary.valid:
        raise InvalidArgumentError(f"{place}: the run is invalid: {summary.invalid[0]}")
    slo = "no SLO"
    percentiles = [one for one in summary.slo.objectives if one.percentile is not None]
    if percentiles:
        part = summary.slo.model_copy(update={"objectives": percentiles})
        trial = judge(summary.model_copy(update={"slo": part}), None)
        if trial.holds is not True:
            verdict = "does not hold" if trial.holds is False else "is not shown"
            raise InvalidArgumentError(f"{place}: the SLO {verdict}: {'; '.join(trial.reasons)}")
        slo = "at " + ", ".join(f"{one.name} {one.limit_ms:g}" for one in percentiles)
    rates = {name: one.value for name, one in summary.rates.items()}
    return _measured(rates, counted, f"measured: {summary.run.name}, {slo}", place)


def _of_search(path: Path, counted: Counted) -> Measured:
    try:
        told: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, rate, rates = told["schema_version"], told["rate_per_s"], told["rates"]
        limits = ", ".join(f"{name} {value:g}" for name, value in told["slo_ms"].items())
        outcome, reason = told["outcome"], told["reason"]
        missed = [one["name"] for one in told["pooled"] if one["outcome"] == "missed"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgumentError(f"{path}: not a search's result: {type(error).__name__} {error}") from error
    if version != SCHEMA_VERSION:
        raise InvalidArgumentError(f"{path}: schema_version must be {SCHEMA_VERSION}, got {version!r}")
    if rate is None:
        raise InvalidArgumentError(f"{path}: the search found no rate: {reason}")
    if missed:
        raise InvalidArgumentError(f"{path}: taken together, the runs at that rate miss {', '.join(missed)}")
    if outcome == "stopped":
        raise InvalidArgumentError(f"{path}: the search was stopped before it was sure: {reason}")
    note = "" if outcome == "found" else f" ({outcome.replace('_', ' ')}: {reason})"
    return _measured(rates, counted, f"measured: {rate:.4g} requests/s, the largest at {limits}{note}", path)


def _measured(rates: Mapping[str, float], counted: Counted, source: str, place: Path) -> Measured:
    try:
        tokens_in, tokens_out = float(rates["input_tokens_per_s"]), float(rates["output_tokens_per_s"])
    except (KeyError, TypeError, ValueError):
        raise InvalidArgumentError(f"{place}: it has no rates of tokens") from None
    positive(f"{place}: output_tokens_per_s", tokens_out)
    total = tokens_out + (tokens_in if counted == "total" else 0.0)
    return Measured(total, tokens_in / tokens_out, source)
