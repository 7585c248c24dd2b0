"""Ladders and searches whose runs are Locust's, against a server of known times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conch_load.analysis import read_summary
from conch_load.calibrate.faults import Behaviour
from conch_load.calibrate.letters import write_letters_tokenizer
from conch_load.calibrate.table import RunningStub, running_stub
from conch_load.records import read_run
from conch_load.report import __main__ as report
from conch_load.report.write import LADDER_FILE
from conch_load.search import command
from conch_load.search.result import RESULT_FILE
from conch_load.search.side_by_side import in_turns

TTFT_MS = 30


@pytest.fixture(scope="module")
def stub() -> Iterator[RunningStub]:
    with running_stub(Behaviour(ttft_ms=TTFT_MS, itl_ms=2)) as running:
        yield running


@pytest.fixture
def flags(stub: RunningStub, tmp_path: Path) -> list[str]:
    write_letters_tokenizer(tmp_path / "tokenizer.json")
    values = {
        "target": stub.target("triton-grpc"), "tokenizer": tmp_path / "tokenizer.json", "duration-s": 0.8,
        "warm-up-s": 0.2, "input-tokens": 20, "output-tokens": 4, "check-answers": 0, "max-loop-lag-ms": 5000,
        "max-late-share": 1, "max-cpu-share": 1, "out": tmp_path / "runs",
    }  # fmt: skip
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_a_ladder_of_runs_has_a_folder_for_each_and_one_report(flags: list[str], tmp_path: Path) -> None:
    assert command.main(["sweep", "--ladder-rates", "40,20", *flags]) == 0
    parent = tmp_path / "runs"
    told = json.loads((parent / LADDER_FILE).read_text(encoding="utf-8"))
    assert [(one["value"], one["folder"]) for one in told["points"]] == [(20, "rate-20"), (40, "rate-40")]
    for one in told["points"]:
        summary = read_summary(parent / one["folder"])
        assert summary.run.arrivals["rate_per_s"] == one["value"]
        assert summary.metrics["ttft_ms"].lowest >= TTFT_MS
        assert summary.server is not None  # nobody is there to ask, and that is said
        assert any("no address was given" in line for line in summary.server["missing"])
    page = (parent / "report.html").read_text(encoding="utf-8")
    assert "rate-20" in page
    assert "rate-40" in page


def test_the_same_load_goes_through_each_front_in_turns_and_the_report_names_their_cost(
    stub: RunningStub, flags: list[str], tmp_path: Path
) -> None:
    sides = ["--fronts", "triton-grpc,triton-http", "--http-target", stub.target("triton-http"), "--rounds", "1"]
    assert command.main(["fronts", *sides, "--users", "8", *flags]) == 0
    parent = tmp_path / "runs"
    assert sorted(one.name for one in parent.iterdir() if one.is_dir()) == [
        "round-1-triton-grpc", "round-1-triton-http"
    ]  # fmt: skip
    first, second = (read_run(parent / f"round-1-{front}") for front in ("triton-grpc", "triton-http"))
    assert (first.seed, first.workload, first.arrivals) == (second.seed, second.workload, second.arrivals)
    assert first.settings["salt"] != second.settings["salt"]
    text = (parent / "report.md").read_text(encoding="utf-8")
    assert "triton-http beside triton-grpc, 8 users" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| End to end") and "p50" in line)
    assert row.rstrip(" |").endswith(" ms")  # what it costs in all


def test_each_round_of_fronts_begins_with_another() -> None:
    assert in_turns(["triton-grpc", "triton-http"], 2) == [
        (1, "triton-grpc"), (1, "triton-http"), (2, "triton-http"), (2, "triton-grpc")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--fronts triton-grpc", "fronts must be two or more of"),
        ("--fronts triton-grpc,openai", "fronts must be two or more of"),
        ("--rounds 0", "rounds must be 1 or more, got 0"),
        ("--target 127.0.0.1:1", "http-target must be given"),
        ("--front triton-grpc", "--front has no meaning here"),
        ("--users 3 --rate 2", "users has no meaning"),
    ],
)
def test_fronts_that_cannot_be_compared_are_refused(
    arguments: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["fronts", *arguments.split(), "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_an_slo_below_the_servers_own_time_is_met_by_nothing(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = f"ttft_p50_ms={TTFT_MS - 1}"
    assert command.main(["slo", "--slo", limits, *flags]) == 1
    assert f"Nothing meets ttft_p50_ms {TTFT_MS - 1}: one request at a time misses" in capsys.readouterr().out
    told = json.loads((tmp_path / "runs" / RESULT_FILE).read_text(encoding="utf-8"))
    assert (told["outcome"], told["rate_per_s"], len(told["trials"])) == ("unmet", None, 1)
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["runs"]  # all of it is in there
    assert read_summary(tmp_path / "runs" / "alone").run.arrivals["users"] == 1
    report_file = tmp_path / "runs" / "report.md"
    report_file.unlink()
    assert report.main([str(tmp_path / "runs")]) == 0
    assert f"Nothing meets ttft_p50_ms {TTFT_MS - 1}" in report_file.read_text(encoding="utf-8")


def test_a_rate_that_holds_is_found_up_to_the_highest_that_may_be_tried(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ["--highest-rate", "20", "--repeats", "1"]
    assert command.main(["slo", "--slo", "ttft_p50_ms=2000", *rates, *flags]) == 0
    assert "ttft_p50_ms 2000 holds up to 20 requests/s" in capsys.readouterr().out
    told = json.loads((tmp_path / "runs" / RESULT_FILE).read_text(encoding="utf-8"))
    assert (told["outcome"], told["high_per_s"]) == ("at_highest", None)
    assert told["rates"]["output_tokens_per_s"] > 0
    text = (tmp_path / "runs" / "report.md").read_text(encoding="utf-8")
    assert "holds up to 20 requests/s" in text
    assert "| alone |" not in text  # it is no step of the ladder
    assert report.main([str(tmp_path / "runs")]) == 0
    assert (tmp_path / "runs" / "report.md").read_text(encoding="utf-8") == text
