"""The engine's metrics in Triton's registry, on Triton's own /metrics.

What every call here costs, and why some histograms are made of gauges: docs/adr/0007-metrics.md. All of one
``Exporter`` must happen on one thread, its end too: Triton 2.51 crashes when two threads use a metric at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils

from conch import metric_table as table
from conch.metric_table import MODEL_LABEL, PROCESS_LABEL, VERSION_LABEL, Kind, MetricSpec
from conch.triton.tally import Counts, Histogram

_log = logging.getLogger(__name__)
_Key = tuple[str, str]  # name of a series, and value of the label that is its own; may be empty


class Exporter:
    """Every series of one loaded engine; they begin at 0.

    Args:
        model: name of the spec.
        version: number of the release.
    """

    def __init__(self, model: str, version: int) -> None:
        self._labels = {MODEL_LABEL: model, VERSION_LABEL: str(version), PROCESS_LABEL: process()}
        self._families: list[pb_utils.MetricFamily] = []
        self._series: dict[_Key, pb_utils.Metric] = {}
        self._last: dict[_Key, float] = {}  # values of gauges
        try:
            for spec in table.METRICS:
                self._create(spec)
        except Exception as error:  # metrics are switched off, say; the engine goes on without them
            _log.warning("no metrics of the engine: %s", error)
            self.close()

    def set_gauges(self, values: Mapping[str, float]) -> None:
        """Set gauges, by name; one that has not changed costs nothing."""
        for name, value in values.items():
            self._set((name, ""), value)

    def add(self, counts: Counts) -> None:
        """Add what was counted."""
        if not self._series:
            return
        for key, by in counts.counters.items():
            self._series[key].increment(by)
        for name, value in counts.observations:
            self._series[name, ""].observe(value)
        for name, histogram in counts.histograms.items():
            self._set_histogram(name, histogram)

    def close(self) -> None:
        """Remove every series."""
        self._series.clear()
        self._families.clear()  # it is the family's end that makes Triton forget its series

    def _create(self, spec: MetricSpec) -> None:
        family = pb_utils.MetricFamily
        if spec.frequent:
            bounds = [*map(repr, spec.bounds), "+Inf"]
            self._add_family(f"{spec.name}_bucket", f"{spec.doc} Buckets.", family.GAUGE, "le", bounds)
            self._add_family(f"{spec.name}_sum", f"{spec.doc} Sum.", family.GAUGE)
            self._add_family(f"{spec.name}_count", f"{spec.doc} Number.", family.GAUGE)
        elif spec.kind is Kind.HISTOGRAM:
            made = family(name=spec.name, description=spec.doc, kind=family.HISTOGRAM)
            self._families.append(made)
            self._series[spec.name, ""] = made.Metric(labels=self._labels, buckets=list(spec.bounds))
        else:
            kind = family.GAUGE if spec.kind is Kind.GAUGE else family.COUNTER
            self._add_family(spec.name, spec.doc, kind, spec.label, spec.values or ("",))

    def _add_family(
        self, name: str, doc: str, kind: pb_utils.MetricKind, label: str = "", values: Sequence[str] = ("",)
    ) -> None:
        family = pb_utils.MetricFamily(name=name, description=doc, kind=kind)
        self._families.append(family)
        for value in values:
            labels = {**self._labels, label: value} if label else self._labels
            self._series[name, value] = family.Metric(labels=labels)

    def _set_histogram(self, name: str, histogram: Histogram) -> None:
        """Count first, then buckets from the largest: whoever reads in between sees no bucket above a larger one."""
        rest = sum(histogram.counts)
        self._set((f"{name}_count", ""), rest)
        bounds = [*map(repr, histogram.bounds), "+Inf"]
        for bound, count in zip(reversed(bounds), reversed(histogram.counts), strict=True):
            self._set((f"{name}_bucket", bound), rest)
            rest -= count
        self._set((f"{name}_sum", ""), histogram.total)

    def _set(self, key: _Key, value: float) -> None:
        if self._last.get(key, 0.0) != value and key in self._series:
            self._series[key].set(value)
            self._last[key] = value


def process() -> str:
    """Tells engines apart that are loaded at the same time: Triton gives each a process of its own."""
    return str(os.getpid())
