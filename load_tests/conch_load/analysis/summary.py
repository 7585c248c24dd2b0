"""``summary.json``: every figure of a run, with its interval. Its schema is ``summary.schema.json`` beside this file.

A value that a run does not give is null, never 0. Keys of ``metrics`` and ``rates`` are those of
:mod:`conch_load.analysis.definitions`, which has their meanings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from conch_load.records import SUMMARY_FILE, BadRecordError

SCHEMA_VERSION = 1
SCHEMA_FILE = Path(__file__).with_name("summary.schema.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Quantity(_Part):
    """A value and its 95 % interval; null where the run does not bound it."""

    value: float
    low: float | None = None
    high: float | None = None


class PercentileFigure(_Part):
    """A percentile; value is null when there are fewer than ``needs`` values."""

    value: float | None
    low: float | None
    high: float | None
    independent_low: float | None
    independent_high: float | None
    design_effect: float | None
    needs: int


class Distribution(_Part):
    """The values of one figure over the measured requests that succeeded."""

    count: int
    mean: Quantity
    deviation: float
    lowest: float
    highest: float
    percentiles: dict[str, PercentileFigure]


class RunPart(_Part):
    """What was asked for: from run.json."""

    name: str
    started_unix_ns: int
    front: str
    target: str
    model: str
    workload: dict[str, Any]
    arrivals: dict[str, Any]
    duration_s: float
    workers: int
    seed: int
    slo_ms: dict[str, float]
    versions: dict[str, str]
    host: dict[str, Any]


class Window(_Part):
    """The measured part. Times are seconds since the run's start.

    Attributes:
        cut_requests: how many MSER-5 cut, after those sent as warm-up.
        reached_half: the cut would have gone on: no steady state was found.
        cut_highest_ttft_ms: highest TTFT among what was cut, so that a cut hides nothing.
    """

    start_s: float
    end_s: float
    length_s: float
    rule: str
    cut_requests: int
    reached_half: bool
    cut_highest_ttft_ms: float | None


class TrendFigure(_Part):
    """Whether a figure stood still over the window."""

    p_value: float | None
    change: float | None
    drifts: bool


class ErrorCount(_Part):
    """Requests that failed with one code."""

    count: int
    share: float
    first_message: str


class Counts(_Part):
    """Requests and tokens by what became of them. All but the first two are of the measured part."""

    records: int
    before_window: int
    measured: int
    succeeded: int
    failed: int
    cut_streams: int
    unfinished: int
    errors: dict[str, ErrorCount]
    finish_reasons: dict[str, int]
    tokens_counted_by: dict[str, int]
    output_tokens_compared: int
    output_tokens_differ: int
    prompt_tokens_compared: int
    prompt_tokens_differ: int


class Stalls(_Part):
    """Gaps longer than three times the median of all gaps."""

    threshold_ms: float
    gaps: int
    stalls: int
    share: float
    requests_with_one: float


class ObjectiveFigure(_Part):
    """One limit and what the requests show of it; see definitions.RULES, early stopping.

    Attributes:
        observed_ms: the percentile with failed requests as infinitely late; null when that is where it falls.
        outcome_if_dependent: the verdict with as many fewer requests as the design effect says.
    """

    name: str
    metric: str
    percentile: float | None
    limit_ms: float
    from_due: bool
    requests: int
    late: int
    observed_ms: float | None
    outcome: Literal["holds", "missed", "undecided"] | None
    outcome_if_dependent: Literal["holds", "missed", "undecided"] | None
    needs: int | None


class SloPart(_Part):
    """The limits, and the share of requests that met them all."""

    objectives: list[ObjectiveFigure]
    limits_of_each_ms: dict[str, float]
    good: int
    good_share: Quantity | None


class Little(_Part):
    """Little's law: number in flight from the generator's samples, from the records, and rate times time."""

    sampled_in_flight: float | None
    recorded_in_flight: float
    rate_times_time: float | None
    consistent: bool | None


class GeneratorPart(_Part):
    """How the generator was doing over the window."""

    samples: int
    loop_lag_p50_ms: float
    loop_lag_p99_ms: float
    loop_lag_highest_ms: float
    cpu_share_mean: float
    cpu_share_highest: float
    late_starts: int


class Summary(_Part):
    """Every figure of a run."""

    schema_version: Literal[1]
    run: RunPart
    valid: bool
    invalid: list[str]
    warnings: list[str]
    window: Window
    stationarity: dict[str, TrendFigure]
    counts: Counts
    metrics: dict[str, Distribution]
    stalls: Stalls | None
    rates: dict[str, Quantity]
    slo: SloPart
    little: Little
    generator: GeneratorPart | None
    checks: dict[str, Any]
    server: dict[str, Any] | None

    def percentile(self, metric: str, which: float) -> PercentileFigure | None:
        """A percentile of a figure; None when the run does not have the figure."""
        found = self.metrics.get(metric)
        return None if found is None else found.percentiles.get(f"p{which:g}")

    @property
    def open_loop(self) -> bool:
        """Whether requests had a schedule."""
        return self.run.arrivals.get("kind") != "closed"


def write_summary(folder: Path, summary: Summary) -> None:
    """Write ``summary.json``."""
    (folder / SUMMARY_FILE).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_summary(place: Path) -> Summary:
    """Read a ``summary.json``.

    Args:
        place: the file, or the run folder that has it.

    Raises:
        BadRecordError: it is not there, or not one, or of another version of the schema.
    """
    path = place / SUMMARY_FILE if place.is_dir() else place
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRecordError(f"{path}: there is no such file; is this a run folder?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadRecordError(f"{path}: not JSON: {error}") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise BadRecordError(f"{path}: schema_version must be {SCHEMA_VERSION}, got {version!r}; summarize it again")
    try:
        return Summary.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place_of_it = ".".join(str(part) for part in first["loc"])
        raise BadRecordError(f"{path}: {place_of_it}: {first['msg']}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of ``summary.json``."""
    made = Summary.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
