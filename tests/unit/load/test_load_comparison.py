"""Two runs beside each other, and the gate's exit codes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from conch_load import compare as compare_command
from conch_load import gate
from conch_load.analysis.comparison import FAILED, KEYS, Change, compare
from conch_load.analysis.regression import BadLimitError, check, parse_limits
from conch_load.analysis.summarize import summarize
from conch_load.records import RunInfo
from simulated_runs import RUN, open_loop, write_folder

NAMED = dataclasses.replace(RUN, duration_s=90.0)


def folder_of(parent: Path, name: str, run: RunInfo = NAMED, **settings: Any) -> Path:
    settings = {"rate_per_s": 20, "duration_s": 90, "slots": 12, **settings}
    folder = write_folder(parent / name, open_loop(**settings), dataclasses.replace(run, name=name))
    summarize(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("runs")
    invalid = dataclasses.replace(NAMED, invalid=("the generator was the limit",))
    return {
        "base": folder_of(parent, "base"),
        "same": folder_of(parent, "same", seed=2),
        "slow": folder_of(parent, "slow", seed=3, gap_ms=25),
        "fast": folder_of(parent, "fast", seed=4, gap_ms=16),
        "short": folder_of(parent, "short", dataclasses.replace(NAMED, duration_s=10.0), seed=5, duration_s=10),
        "invalid": folder_of(parent, "invalid", invalid, seed=6),
        "other": folder_of(parent, "other", dataclasses.replace(NAMED, workload={"kind": "chat"}), seed=7),
    }


def rows(folders: dict[str, Path], before: str, after: str) -> dict[str, Change]:
    return {one.key: one for one in compare(summarize(folders[before]), summarize(folders[after]))}


def test_no_difference_is_said_to_be_none(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert {one.outcome for one in rows(folders, "base", "same").values()} == {"no difference shown"}
    assert compare_command.main([str(folders["base"]), str(folders["same"])]) == 0
    assert "no difference is shown between the two runs" in capsys.readouterr().out


def test_a_real_difference_is_named_with_its_size(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(folders, "base", "slow")
    tpot = found["tpot_p50_ms"]
    assert tpot.outcome == "worse"
    assert tpot.change == pytest.approx(0.25, abs=0.03)
    assert tpot.low is not None
    assert tpot.high is not None
    assert 0.15 < tpot.low < tpot.change < tpot.high < 0.35
    assert found["ttft_p50_ms"].outcome == "no difference shown"
    assert rows(folders, "base", "fast")["tpot_p50_ms"].outcome == "better"
    assert compare_command.main([str(folders["base"]), str(folders["slow"]), "--markdown"]) == 0
    said = capsys.readouterr().out
    assert "worse: TPOT, p50 +2" in said
    assert "| TPOT, p50, ms |" in said


def test_intervals_are_wide_enough_for_all_rows_together(tmp_path: Path) -> None:
    # Twelve pairs of equal runs, a dozen rows each: one pair in twenty may show a difference.
    summaries = [summarize(folder_of(tmp_path, str(seed), seed=100 + seed, duration_s=40)) for seed in range(24)]
    wrong = sum(
        any(row.outcome in ("worse", "better") for row in compare(summaries[place], summaries[place + 1]))
        for place in range(0, 24, 2)
    )
    assert wrong <= 3


def test_too_few_requests_are_not_known(folders: dict[str, Path]) -> None:
    found = rows(folders, "base", "short")["ttft_p99_ms"]
    assert found.outcome == "not known"
    assert "it needs 368" in found.note


def test_json(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_command.main([str(folders["base"]), str(folders["slow"]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["key"] for row in told["rows"]} == set(KEYS)
    assert any("one run each" in text for text in told["notes"])


def test_different_loads_are_refused_or_said(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(folders["base"]), str(folders["other"])]
    assert compare_command.main(pair) == 2
    assert "workload." in capsys.readouterr().err
    assert compare_command.main([*pair, "--different-loads"]) == 0
    assert "not the same load" in capsys.readouterr().out


def test_another_seed_is_the_same_load(tmp_path: Path) -> None:
    runs = [dataclasses.replace(NAMED, seed=seed, arrivals={**NAMED.arrivals, "seed": seed},
                                workload={**NAMED.workload, "exact_prompt_tokens": bool(seed)}) for seed in (0, 1)]
    folders = [folder_of(tmp_path, str(run.seed), run, seed=run.seed) for run in runs]
    assert compare_command.main([str(folder) for folder in folders]) == 0


@pytest.mark.parametrize(("run", "arguments", "code", "said"), [
    ("same", ["--max-regression", "30%"], gate.PASSED, "no regression beyond the limits"),
    ("fast", ["--max-regression", "tpot_p99_ms=10%"], gate.PASSED, "no regression beyond the limits"),
    ("slow", [], gate.REGRESSED, "regressed"),
    ("slow", ["--max-regression", "tpot_p99_ms=60%"], gate.PASSED, "passed"),
    ("slow", ["--max-regression", "60%", "--max-regression", "tpot_p99_ms=0.05"], gate.REGRESSED, "regressed"),
    ("short", [], gate.PASSED, "cannot tell"),
    ("short", ["--strict"], gate.UNDECIDED, "cannot tell"),
    ("invalid", [], gate.INVALID, "invalid"),
    ("other", [], gate.BAD_INPUT, "different loads"),
    ("same", ["--max-regression", "ttft_p98_ms=5%"], gate.BAD_INPUT, "ttft_p99_ms"),
    ("same", ["--max-regression", "a lot"], gate.BAD_INPUT, "'a lot'"),
    ("same", ["--max-regression", "ttft_p99_ms=-5%"], gate.BAD_INPUT, "must be a share"),
])  # fmt: skip
def test_gate(folders: dict[str, Path], capsys: pytest.CaptureFixture[str], run: str, arguments: list[str], code: int,
              said: str) -> None:  # fmt: skip
    assert gate.main([str(folders[run]), "--baseline", str(folders["base"]), *arguments]) == code
    out = capsys.readouterr()
    assert said in out.out + out.err


def test_gate_on_a_missed_slo(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    over = tmp_path / "over"
    write_folder(over, open_loop(20, 90, slots=12), dataclasses.replace(NAMED, slo_ms={"ttft_p99_ms": 60.0}))
    summarize(over)
    arguments = [str(over), "--baseline", str(over), "--max-regression", "50%"]
    assert gate.main(arguments) == gate.PASSED
    assert gate.main([*arguments, "--require-slo"]) == gate.REGRESSED
    assert "missed: ttft_p99_ms" in capsys.readouterr().out


def test_gate_takes_a_stored_summary(folders: dict[str, Path]) -> None:
    stored = folders["base"] / "summary.json"
    assert gate.main([str(folders["slow"]), "--baseline", str(stored)]) == gate.REGRESSED


def test_failures_regress(folders: dict[str, Path], tmp_path: Path) -> None:
    failing = [dataclasses.replace(one, error_code="503", chunk_ns=()) if one.index % 20 == 0 else one
               for one in open_loop(20, 90, slots=12)]  # fmt: skip
    found = compare(summarize(folders["base"]), summarize(write_folder(tmp_path, failing, NAMED)))
    (checked,) = check(found, {FAILED: 0.01})
    assert checked.outcome == "regressed"


def test_limits() -> None:
    assert parse_limits(["10%"])["ttft_p99_ms"] == pytest.approx(0.1)
    assert parse_limits(["ttft_p50_ms=0.02"]) == {"ttft_p50_ms": 0.02}
    with pytest.raises(BadLimitError, match="no goodput_per_s"):
        check([], {"goodput_per_s": 0.1})


def test_a_page_of_it(folders: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    assert compare_command.main([str(folders["base"]), str(folders["slow"]), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "base → slow" in text
    assert text.count("<svg") == 4  # the changes, and three pairs of distributions
    stored = [str(folders[name] / "summary.json") for name in ("base", "slow")]
    assert compare_command.main([*stored, "--html", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("<svg") == 1
