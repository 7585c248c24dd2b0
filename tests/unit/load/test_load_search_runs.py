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
from conch_load.search import command
from conch_load.search.drive import LADDER_FILE
from conch_load.search.result import RESULT_FILE

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


def test_an_slo_below_the_servers_own_time_is_met_by_nothing(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = f"ttft_p50_ms={TTFT_MS - 1}"
    assert command.main(["slo", "--slo", limits, *flags]) == 1
    assert f"Nothing meets ttft_p50_ms {TTFT_MS - 1}: one request at a time misses" in capsys.readouterr().out
    told = json.loads((tmp_path / "runs" / RESULT_FILE).read_text(encoding="utf-8"))
    assert (told["outcome"], told["rate_per_s"], len(told["trials"])) == ("unmet", None, 1)


def test_a_rate_that_holds_is_found_up_to_the_highest_that_may_be_tried(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ["--start-rate", "20", "--highest-rate", "20", "--repeats", "1"]
    assert command.main(["slo", "--slo", "ttft_p50_ms=2000", *rates, *flags]) == 0
    assert "ttft_p50_ms 2000 holds up to 20 requests/s" in capsys.readouterr().out
    told = json.loads((tmp_path / "runs" / RESULT_FILE).read_text(encoding="utf-8"))
    assert (told["outcome"], told["high_per_s"]) == ("at_highest", None)
    assert told["rates"]["output_tokens_per_s"] > 0
