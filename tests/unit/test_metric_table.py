"""The table of metrics, and what the docs say of it."""

from __future__ import annotations

import re
from pathlib import Path

from conch.metric_table import HISTOGRAMS, METRICS, PREFIX, Kind

DOCS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def test_names_are_prometheus_names() -> None:
    assert len({spec.name for spec in METRICS}) == len(METRICS)
    for spec in METRICS:
        assert re.fullmatch(rf"{PREFIX}[a-z0-9_]+", spec.name)
        assert spec.name.endswith("_total") == (spec.kind is Kind.COUNTER)
        assert spec.vllm in ("", spec.name.replace(PREFIX, "vllm:"))


def test_bounds_ascend_and_only_histograms_have_some() -> None:
    for spec in METRICS:
        assert list(spec.bounds) == sorted(set(spec.bounds))
        assert bool(spec.bounds) == (spec in HISTOGRAMS)


def test_the_docs_list_every_metric_and_no_other() -> None:
    rows = re.findall(r"^\| `(conch_\w+)(?:\{(\w+)\})?` \| (\w+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(spec.name, spec.label, spec.kind.value) for spec in METRICS]
