"""What is not a run folder, or not a whole one: a clear word and an exit code, never a traceback."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conch_load import compare, gate
from conch_load.analysis.slo import UnknownObjectiveError, objectives
from conch_load.analysis.summarize import summarize
from conch_load.report import __main__ as report
from simulated_runs import RUN, open_loop, write_folder


def no_run_file(folder: Path) -> None:
    (folder / "run.json").unlink()


def no_requests_file(folder: Path) -> None:
    (folder / "requests.jsonl").unlink()


def no_requests(folder: Path) -> None:
    (folder / "requests.jsonl").write_text("")


def half_a_line(folder: Path) -> None:
    path = folder / "requests.jsonl"
    path.write_text(path.read_text()[:-200])


def newer_field(folder: Path) -> None:
    _change_first(folder, {"colour": "red"})


def field_missing(folder: Path) -> None:
    _change_first(folder, {"sent_ns": None}, remove=True)


def field_of_another_kind(folder: Path) -> None:
    _change_first(folder, {"sent_ns": "soon"})


def chunks_of_another_kind(folder: Path) -> None:
    _change_first(folder, {"chunk_ns": 7})


def not_an_object(folder: Path) -> None:
    (folder / "requests.jsonl").write_text("[1, 2]\n")


def binary(folder: Path) -> None:
    (folder / "requests.jsonl").write_bytes(b"\xff\xfe\x00")


def run_file_not_json(folder: Path) -> None:
    (folder / "run.json").write_text("{")


def run_file_a_list(folder: Path) -> None:
    (folder / "run.json").write_text("[]")


def unknown_limit(folder: Path) -> None:
    values = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**values, "slo_ms": {"latency_p99_ms": 5}}))


def all_warm_up(folder: Path) -> None:
    write_folder(folder, [dataclasses.replace(one, warm_up=True) for one in open_loop(20, 5)], RUN)


def _change_first(folder: Path, values: dict[str, object], remove: bool = False) -> None:
    path = folder / "requests.jsonl"
    first, *rest = path.read_text().splitlines()
    made = json.loads(first)
    made = {name: value for name, value in made.items() if name not in values} if remove else {**made, **values}
    path.write_text("\n".join([json.dumps(made), *rest]) + "\n")


@pytest.mark.parametrize(("damage", "said"), [
    (no_run_file, "no run.json"), (no_requests_file, "there is no requests.jsonl"), (no_requests, "no requests in it"),
    (half_a_line, "not JSON"), (newer_field, "unknown field colour"), (field_missing, "sent_ns"),
    (field_of_another_kind, "requests.jsonl:1: sent_ns"), (chunks_of_another_kind, "requests.jsonl:1: chunk_ns"),
    (not_an_object, "an object is expected"), (binary, "requests.jsonl"), (run_file_not_json, "run.json: not JSON"),
    (run_file_a_list, "run.json"), (unknown_limit, "latency_p99_ms"), (all_warm_up, "no request is left to measure"),
])  # fmt: skip
def test_damaged_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    write_folder(tmp_path, open_loop(20, 5), RUN)
    damage(tmp_path)
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error


@pytest.mark.parametrize(("arguments", "said"), [
    (["--slo", "ttft_p99_ms"], "NAME_MS=NUMBER"), (["--slo", "ttft_p99=5"], "'ttft_p99' is no limit"),
    (["--slo", "ttft_p100_ms=5"], "between 0 and 100"), (["--slo", "ttft_p99_ms=-5"], "above 0"),
    (["--slo", "ttft_p99_ms=nan"], "above 0"), (["--warm-up", "some"], "'some'"), (["--warm-up", "-3"], "'-3'"),
    (["--warm-up", "4000"], "no request is left to measure"),
])  # fmt: skip
def test_bad_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    write_folder(tmp_path, open_loop(20, 5), RUN)
    assert report.main([str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_limits_that_exist() -> None:
    found = objectives({"ttft_p99.9_ms": 5, "longest_gap_ms": 100})
    assert [(one.metric, one.percentile) for one in found] == [("ttft_ms", 99.9), ("longest_gap_ms", None)]
    with pytest.raises(UnknownObjectiveError, match="METRIC one of ttft, tpot, itl, e2e, longest_gap"):
        objectives({"p99_ms": 5})


def test_compare_and_gate_without_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tmp_path), str(tmp_path)]) == 2
    assert "is this a run folder?" in capsys.readouterr().err
    assert gate.main([str(tmp_path), "--baseline", str(tmp_path)]) == 2
    assert "is this a run folder?" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "said"), [
    ({"schema_version": 0}, "schema_version must be 1, got 0"), ({"rates": 3}, "rates"), ({"new": 1}, "new"),
])  # fmt: skip
def test_summaries_of_other_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    write_folder(tmp_path, open_loop(20, 5), RUN)
    summarize(tmp_path)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert compare.main([str(path), str(path)]) == 2
    assert said in capsys.readouterr().err
