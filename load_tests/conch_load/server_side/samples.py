"""``server.jsonl`` read back: each sample whole, and what counters grew by between two of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conch_load.records import SERVER_FILE, BadRecordError
from conch_load.server_side.names import GAUGES_BY_ANOTHER_NAME, METRICS_OF_A_MODEL, STATISTICS, half_of
from conch_load.server_side.scrape import Sample, Values, parse


@dataclass(frozen=True)
class Look:
    """One sample.

    Attributes:
        at_ns: since the run's start.
        values: every series at that time.
        errors: what could not be had, by half: METRICS or STATISTICS; that half is as it was before.
    """

    at_ns: int
    values: Mapping[str, float]
    took_ms: float
    errors: Mapping[str, str]


@dataclass
class Recording:
    """All samples of a run.

    Attributes:
        models: name to steps and decoupled, of the model that was asked and those that it is made of.
        entry: the model that was asked.
        error: why ``models`` is empty, if it should not be.
    """

    looks: list[Look]
    models: Mapping[str, Mapping[str, Any]]
    entry: str
    sources: Mapping[str, Any]
    error: str | None = None
    _parsed: dict[str, Sample] = field(default_factory=dict)

    def sample(self, key: str) -> Sample:
        """A series, taken apart."""
        if key not in self._parsed:
            self._parsed[key] = next(one for one, _ in parse(f"{key} 0").values())
        return self._parsed[key]


def read(folder: Path, started_unix_ns: int) -> Recording:
    """The samples of a run folder.

    Args:
        folder: of the run.
        started_unix_ns: of the run, from its run.json.

    Raises:
        BadRecordError: a line is not a sample.
        FileNotFoundError: nothing was sampled.
    """
    path = folder / SERVER_FILE
    lines = _lines(path)
    try:
        head = next(lines)
        recording = Recording([], head["models"], head["sources"]["model"], head["sources"], head.get("error"))
    except (StopIteration, KeyError, TypeError) as error:
        raise BadRecordError(f"{path}:1: sources and models are expected") from error
    values: Values = {}
    names: list[str] = []
    for number, line in enumerate(lines, start=2):
        try:
            names += line.get("series", ())
            gone = {names[index] for index in line.get("gone", ())}
            changed = {names[int(index)]: float(value) for index, value in line["changed"].items()}
            values = {key: value for key, value in values.items() if key not in gone} | changed
            at_ns = line["at_unix_ns"] - started_unix_ns
            recording.looks.append(Look(at_ns, values, line.get("took_ms", 0.0), line.get("errors", {})))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadRecordError(f"{path}:{number}: not a sample: {type(error).__name__} {error}") from error
    return recording


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadRecordError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(values, dict):
                raise BadRecordError(f"{path}:{number}: an object is expected")
            yield values


@dataclass(frozen=True)
class Reset:
    """A counter that went back: its process began anew."""

    series: str
    at_ns: int
    before: float
    after: float


@dataclass(frozen=True)
class Growth:
    """What the series of one half grew by over some samples; for gauges it means nothing.

    Attributes:
        by: series to growth. One that appears on the way counts from 0; one that goes keeps what it had grown by; one
            that falls began anew and counts from 0, as in PromQL's increase.
        resets: counters that fell.
        begin_ns, end_ns: of the first sample and the last.
    """

    by: Mapping[str, float]
    resets: tuple[Reset, ...]
    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Between the first sample and the last."""
        return (self.end_ns - self.begin_ns) / 1e9


def window(looks: list[Look], begin_ns: int, end_ns: int) -> list[Look]:
    """The samples of a window, with the last one before it and the first one after it, where there are such."""
    before = [i for i, one in enumerate(looks) if one.at_ns <= begin_ns]
    after = [i for i, one in enumerate(looks) if one.at_ns >= end_ns]
    return looks[before[-1] if before else 0 : (after[0] + 1) if after else len(looks)]


def growth(recording: Recording, looks: list[Look], half: str) -> Growth | None:
    """What grew from the first of these samples to the last; None if there are not two in which this half was had.

    Args:
        recording: whose samples they are.
        looks: samples, in order.
        half: METRICS or STATISTICS.
    """
    had = [one for one in looks if half not in one.errors]
    if len(had) < 2:
        return None
    by: dict[str, float] = {}
    resets = []
    for before, after in itertools.pairwise(had):
        for key, value in after.values.items():
            if half_of(key) != half:
                continue
            was = before.values.get(key, 0.0)
            if value < was and is_counter(recording.sample(key).name):
                resets.append(Reset(key, after.at_ns, was, value))
            by[key] = by.get(key, 0.0) + (value - was if value >= was else value)
    return Growth(by, tuple(resets), had[0].at_ns, had[-1].at_ns)


def is_counter(name: str) -> bool:
    """Whether a series only ever grows while its process lives, by its name."""
    if name in GAUGES_BY_ANOTHER_NAME:
        return False
    return name in METRICS_OF_A_MODEL or name == STATISTICS or name.endswith(("_total", "_sum", "_count", "_bucket"))
