"""Every metric that a dashboard or an alert asks for is one that the engine or Triton has."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
import yaml
from server_processes import ROOT

from conch import metric_table
from conch.metric_table import METRICS, MODEL_LABEL, PROCESS_LABEL, VERSION_LABEL, Kind

sys.path.insert(0, str(ROOT / "build_scripts"))
import write_dashboard

if TYPE_CHECKING:
    from server_processes import Server

ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
# What a tritonserver that sees no GPU does not have; named in Triton's documentation of metrics.
GPU_NAMES = {
    "nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_power_usage",
}  # fmt: skip
# What only the backend tensorrtllm has.
TRTLLM_NAMES = {"nv_trt_llm_kv_cache_block_metrics"}
NAME = re.compile(r"\b(?:conch|nv)_\w+")
ENDS = ("_bucket", "_sum", "_count")


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(write_dashboard.TARGET.read_text())
    return content


def expressions() -> Iterator[str]:
    """All PromQL of the dashboard and of the alerts."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in dashboard()["templating"]["list"][1:]:
        yield variable["query"]["query"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


def exported() -> set[str]:
    """Names of the engine's series."""
    return {spec.name + end for spec in METRICS for end in (ENDS if spec.kind is Kind.HISTOGRAM else ("",))}


def test_the_file_is_what_the_script_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_dashboard.main(["--check"]) == 0, capsys.readouterr().err


def test_another_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_dashboard, "ROOT", tmp_path)
    monkeypatch.setattr(write_dashboard, "TARGET", tmp_path / "conch.json")
    assert write_dashboard.main(["--check"]) == 1
    assert write_dashboard.main([]) == 0
    assert write_dashboard.main(["--check"]) == 0
    (tmp_path / "conch.json").write_text("{}")
    assert write_dashboard.main(["--check"]) == 1


def test_every_metric_of_the_engine_that_is_asked_for_is_in_the_table() -> None:
    asked = {name for expression in expressions() for name in NAME.findall(expression) if name.startswith("conch_")}
    assert asked
    assert asked - exported() == set()


def test_every_metric_of_the_engine_is_shown() -> None:
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    for spec in METRICS:
        assert {spec.name, *(spec.name + end for end in ENDS)} & shown, spec.name


def test_labels_and_their_values_are_the_table_s() -> None:
    known = {MODEL_LABEL, VERSION_LABEL, PROCESS_LABEL, "instance", "le", "job", "finished_reason", "code"}
    known.add("kv_cache_block_type")
    assert {spec.label for spec in METRICS if spec.label} <= known
    for expression in expressions():
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= known
        for labels in re.findall(r"\{([^}]*)\}", expression):
            for label, value in re.findall(r'(\w+)=~?"([^"]*)"', labels):
                assert label in known
                if label == metric_table.REQUESTS.label:
                    assert value in metric_table.REQUESTS.values


def test_counters_are_asked_for_their_rate_and_gauges_are_not() -> None:
    counters = {spec.name for spec in METRICS if spec.kind is Kind.COUNTER}
    counters |= {spec.name + end for spec in METRICS if spec.kind is Kind.HISTOGRAM for end in ENDS}
    for expression in expressions():
        for match in NAME.finditer(expression):
            if match[0] in exported():
                rated = expression[: match.start()].endswith("rate(")
                assert rated == (match[0] in counters), expression


def test_panels_are_in_their_places() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.e2e
def test_a_real_server_has_every_metric_that_is_asked_for(server: Server) -> None:
    with urlopen(f"http://{server.host}:{server.metrics_port}/metrics", timeout=30) as answer:
        there = set(re.findall(r"^(\w+)", answer.read().decode(), re.MULTILINE))
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert {name for name in asked if name.startswith("nv_")} - GPU_NAMES
    assert asked - there - GPU_NAMES - TRTLLM_NAMES == set()
