"""Cost: the formulas against figures reckoned by hand, the table, the prices' files, the command."""

from __future__ import annotations

import json
import math
import sys
from datetime import date
from pathlib import Path

import pytest
from conch_load.analysis.summary import read_summary, write_summary
from conch_load.cost import formulas, render
from conch_load.cost.command import main
from conch_load.cost.prices import (
    GPU_PRICES_FILE,
    ApiPrice,
    api_price,
    parse_api_price,
    read_gpu_prices,
)
from conch_load.cost.report import Assumptions, Comparison, Row, as_json, make_report, read_comparison
from conch_load.search.result import RESULT_FILE
from conch_load.search.result import as_json as search_json
from conch_load.search.slo_search import Plan, Result
from conch_load.search.trial import Trial
from hypothesis import given
from hypothesis import strategies as st
from queue_server import QueueServer

from conch.errors import InvalidArgumentError, NotFoundError
from conch.memory_plan.gpus import known_gpus

has_genai_prices = pytest.mark.skipif(sys.version_info < (3, 11), reason="genai-prices needs Python 3.11")
ASSUMED = Assumptions(0.6, 0.0, 1.0, "output", date(2026, 11, 24))
API = ApiPrice("by/hand", 1.0, 2.0, "the test")


@pytest.mark.parametrize(
    ("tokens_per_s", "utilization", "expected"),
    [(1000, 1.0, 0.82), (1000, 0.6, 1.37), (1000, 0.3, 2.73), (2500, 0.6, 0.55), (5000, 0.3, 0.55), (10000, 1.0, 0.08)],
)
def test_usd_per_million_of_one_h100(tokens_per_s: float, utilization: float, expected: float) -> None:
    hourly = formulas.usd_per_hour(2.95, 1, 0.0)
    assert round(formulas.usd_per_million(hourly, tokens_per_s, utilization), 2) == expected


def test_overhead_and_gpus_multiply_the_price() -> None:
    assert formulas.usd_per_hour(2.0, 4, 0.5) == pytest.approx(12.0)


@pytest.mark.parametrize(("api_usd", "expected_millions"), [(0.08, 885), (0.79, 89.6), (2.0, 35.4), (10.0, 7.08)])
def test_break_even_of_one_h100(api_usd: float, expected_millions: float) -> None:
    even = formulas.break_even(2.95, 20_000, 1.0, api_usd)
    assert even.tokens_per_day / 1e6 == pytest.approx(expected_millions, rel=0.01)
    assert even.pays


def test_an_api_that_is_cheaper_than_a_full_replica_is_never_beaten() -> None:
    even = formulas.break_even(2.95, 1000, 0.6, 1.36)
    assert not even.pays
    assert math.isinf(even.pays_above_tokens_per_day)
    assert formulas.break_even(2.95, 1000, 0.6, 1.37).pays  # a full one costs 1.366


def test_a_free_api_is_never_beaten() -> None:
    assert math.isinf(formulas.break_even(2.95, 1000, 1.0, 0.0).tokens_per_day)


def cheaper_at(load: float, hourly: float, capacity: float, api_usd: float) -> bool:
    replicas = max(1, math.ceil(load / capacity))
    return 24 * hourly * replicas < load * api_usd / 1e6


@given(
    hourly=st.floats(0.1, 100), tokens_per_s=st.floats(1, 1e5), utilization=st.floats(0.05, 1), api=st.floats(0.01, 100)
)
def test_above_the_load_that_is_told_self_hosting_is_cheaper_and_just_below_it_is_not(
    hourly: float, tokens_per_s: float, utilization: float, api: float
) -> None:
    even = formulas.break_even(hourly, tokens_per_s, utilization, api)
    above, capacity = even.pays_above_tokens_per_day, even.capacity_tokens_per_day
    if math.isinf(above):
        assert not cheaper_at(capacity, hourly, capacity, api * (1 - 1e-9))
        return
    # The loads just below begin where the replicas before are full; with many replicas that is a narrow band.
    full = (max(1, math.ceil(above / capacity)) - 1) * capacity
    if above - full > 1e-9 * above:
        assert not cheaper_at((full + above) / 2, hourly, capacity, api)
    if above < 1e5 * capacity:  # else the rounding of floats decides
        beyond = [above * (1 + 1e-6), *(capacity * k * (1 + 1e-6) for k in range(1, 200))]
        assert all(cheaper_at(load, hourly, capacity, api) for load in beyond if load > above * (1 + 1e-7))


@given(
    hourly=st.floats(0.1, 100), tokens_per_s=st.floats(1, 1e5), utilization=st.floats(0.05, 1), day=st.floats(1e4, 1e9)
)
def test_the_price_that_makes_the_claim_true_is_the_smallest_such(
    hourly: float, tokens_per_s: float, utilization: float, day: float
) -> None:
    price = formulas.api_price_to_pay_above(hourly, tokens_per_s, utilization, day)
    told = [formulas.break_even(hourly, tokens_per_s, utilization, price * off) for off in (1 + 1e-6, 1 - 1e-6)]
    assert told[0].pays_above_tokens_per_day <= day * (1 + 1e-3)
    assert told[1].pays_above_tokens_per_day >= day * (1 - 1e-3)


def test_api_prices_are_brought_to_the_tokens_that_are_counted() -> None:
    assert formulas.api_usd_per_million(0.5, 2.0, 3.0, "output") == pytest.approx(3.5)
    assert formulas.api_usd_per_million(0.5, 2.0, 3.0, "total") == pytest.approx(3.5 / 4)


def test_size_takes_whole_replicas_and_says_how_full_they_are() -> None:
    sizing = formulas.size(10_000, 15_000, 4, 11.8, 0.6)
    assert (sizing.replicas, sizing.gpus) == (2, 8)
    assert sizing.usd_per_hour == pytest.approx(23.6)
    assert sizing.utilization == pytest.approx(1 / 3)
    assert sizing.usd_per_million == pytest.approx(23.6 / (10_000 * 3600) * 1e6)
    assert formulas.size(9_000, 15_000, 4, 11.8, 0.6).replicas == 1


def test_the_table_says_of_each_figure_whether_it_is_an_input_and_whose() -> None:
    report = make_report(read_comparison().model_copy(update={"apis": ()}), ASSUMED, read_gpu_prices(), [API])
    told = as_json(report)
    rows = {row["name"]: row["figures"] for row in told["rows"]}
    assert [row["name"] for row in told["rows"]] == ["vLLM, 4×A100", "TGI, 2×A100", "TensorRT-LLM, 4×H100", "API"]
    assert [row["tokens_per_s"]["value"] for row in rows.values()] == [8000, 4000, 15000, 1000]
    for figures in rows.values():
        assert {f["origin"] for f in figures.values()} <= {"input", "computed"}
        assert figures["tokens_per_s"]["source"] == "quoted, not measured here"
        assert all(f["source"] for f in figures.values() if f["origin"] == "input")
    hopper = rows["TensorRT-LLM, 4×H100"]
    assert hopper["usd_per_gpu_hour"]["origin"] == "input"
    assert "2026-05-20" in hopper["usd_per_gpu_hour"]["source"]
    assert hopper["usd_per_hour"] == {"value": pytest.approx(11.8), "unit": "$/h", "origin": "computed"}
    assert hopper["usd_per_million"]["value"] == pytest.approx(11.8 / (15_000 * 3600 * 0.6) * 1e6)
    assert hopper["target_gpus"]["value"] == 8


def test_the_claim_is_tested_not_asserted() -> None:
    rows = (Row(name="one", tokens_per_s=1000, usd_per_hour=1.0, source="the test"),)
    dear, cheap = (ApiPrice(name, 0, usd, "the test") for name, usd in (("dear", 25.0), ("cheap", 23.0)))
    prices = read_gpu_prices()
    both = make_report(Comparison(rows=rows), ASSUMED, prices, [dear, cheap])  # breaks even at 24 $ per million
    assert [one.claim_holds for _, one in both.comparisons] == [True, False]
    assert "not true in 1 of 2 comparisons" in both.verdict()
    assert "$24.00 per million" in both.verdict()
    assert "true in all 1 comparisons" in make_report(Comparison(rows=rows), ASSUMED, prices, [dear]).verdict()


def test_text_and_markdown_mark_every_input() -> None:
    report = make_report(read_comparison().model_copy(update={"apis": ()}), ASSUMED, read_gpu_prices(), [API])
    for page in (render.as_text(report), render.as_markdown(report)):
        assert "15,000 [1]" in page
        assert "[1] quoted, not measured here" in page
        assert "2.95 [3]" in page
        assert "[3] H100-80GB, 2026-05-20" in page
        assert "utilization = 0.6" in page
        assert report.verdict() in page


def test_the_price_file_has_names_that_the_memory_planner_knows_and_a_source_for_each() -> None:
    known = {gpu.name for gpu in known_gpus()}
    prices = read_gpu_prices()
    assert set(prices.gpus) <= known
    assert all(price.source for price in prices.gpus.values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("usd_per_hour: 2.29", "usd_per_hour: -1", "gpus.GH200-96GB.usd_per_hour"),
        ("usd_per_hour: 1.39", "usd_per_hour: 3.01", "between low and high, got 3.01"),
        ("as_of: 2026-05-20", "as_of: last spring", "as_of must be a day"),
        ("gpus:", "cpus:", "gpus: Field required"),
        ("checked: 2026-11-24", "checked: [", "not YAML"),
    ],
)
def test_a_price_file_with_a_mistake_is_refused_by_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = GPU_PRICES_FILE.read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "prices.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match=said):
        read_gpu_prices(file)


def test_an_unknown_gpu_is_named_with_those_that_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"gpu must be one of A100-80GB, .*, got H900"):
        read_gpu_prices().of("H900")


@has_genai_prices
def test_api_prices_are_dated_and_change_with_the_day() -> None:
    name = "novita/meta-llama/llama-3.3-70b-instruct"
    before, after = (api_price(name, date(2026, 10, day)) for day in (17, 18))
    assert (before.usd_in, before.usd_out) == (0.39, 0.39)
    assert (after.usd_in, after.usd_out) == (0.135, 0.4)
    assert "in force since 2026-10-18" in after.source
    assert "no date of its own" in api_price("groq/llama-3.3-70b-versatile", date(2026, 11, 24)).source


@has_genai_prices
@pytest.mark.parametrize(
    ("name", "said"),
    [("groq/none", "no such model"), ("none/none", "no provider none"), ("gpt-4o", "must be provider/model")],
)
def test_an_api_that_is_not_known_is_refused(name: str, said: str) -> None:
    with pytest.raises((NotFoundError, InvalidArgumentError), match=said):
        api_price(name, date(2026, 11, 24))


@pytest.mark.parametrize("text", ["x", "x=1", "=1/2", "x=1/2/3", "x=a/b", "x=-1/2", "x=1/inf"])
def test_a_price_by_hand_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--api-price must be"):
        parse_api_price(text)


def test_without_genai_prices_the_machines_are_still_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    report = make_report(read_comparison(), ASSUMED, read_gpu_prices())
    assert report.lines[0].figures["usd_per_million"].value == pytest.approx(0.3218, abs=1e-4)
    assert "genai-prices is not installed" in render.as_text(report)
    assert "not tested" in report.verdict()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--utilization 1.5", "utilization must be above 0 and at most 1, got 1.5"),
        ("--utilization 0", "utilization must be above 0 and at most 1, got 0"),
        ("--overhead -0.1", "overhead must be 0 or above, got -0.1"),
        ("--tokens-per-s 0 --gpu H200", "tokens_per_s must be above 0, got 0"),
        ("--tokens-per-s nan --gpu H200", "tokens_per_s must be above 0, got nan"),
        ("--tokens-per-s 9 --gpu H900", "got H900"),
        ("--tokens-per-s 9 --gpu H200 --usd-per-gpu-hour -1", "usd_per_gpu_hour must be 0 or above, got -1"),
        ("--tokens-per-s 9 --gpu H200 --gpus 0", "gpus must be above 0, got 0"),
        ("--tokens-per-s 9", "one of --gpu and --usd-per-hour must be given"),
        ("--gpu H200", "need a throughput"),
        ("--target-tokens-per-s 0", "target_tokens_per_s must be above 0, got 0"),
    ],
)
def test_the_command_refuses_by_field_rule_and_value(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments.split(), "--api-price", "x=1/2"]) == 1
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_the_command_reckons_one_machine(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--tokens-per-s 1000 --gpu H100-80GB --usd-per-gpu-hour 3.6 --utilization 1 --overhead 0.5 --json"
    assert main([*line.split(), "--api-price", "by/hand=0/3"]) == 0
    told = json.loads(capsys.readouterr().out)
    figures = told["rows"][0]["figures"]
    assert figures["usd_per_hour"]["value"] == pytest.approx(5.4)
    assert figures["usd_per_million"]["value"] == pytest.approx(1.5)
    assert told["rows"][0]["against"][0]["break_even"]["value"] == pytest.approx(43.2)
    overhead = {"value": 0.5, "unit": "share", "origin": "input", "source": "given by hand"}
    assert told["assumptions"]["overhead"] == overhead


def summary_at(tmp_path: Path, rate: float, slo_ms: dict[str, float], invalid: tuple[str, ...] = ()) -> Path:
    """A summary.json of a simulated run: 8 tokens in and 2 out for each request."""
    write_summary(tmp_path, QueueServer().run(rate, 1, 1000, slo_ms, invalid))
    return tmp_path / "summary.json"


def test_a_measured_run_brings_its_throughput_and_its_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = summary_at(tmp_path, 3.0, {"ttft_p99_ms": 500.0})
    rates = read_summary(tmp_path).rates
    for counted, rate in (
        ("output", rates["output_tokens_per_s"].value),
        ("total", rates["output_tokens_per_s"].value + rates["input_tokens_per_s"].value),
    ):
        flags = ["--measured", str(file), "--usd-per-hour", "1", "--json", "--api-price", "a=1/2", "--tokens", counted]
        assert main(flags) == 0
        told = json.loads(capsys.readouterr().out)
        figures = told["rows"][0]["figures"]
        assert figures["tokens_per_s"]["value"] == pytest.approx(rate)
        assert figures["tokens_per_s"]["source"] == "measured: simulated, at ttft_p99_ms 500"
        assert figures["usd_per_machine_hour"]["source"] == "given by hand"
        assert told["assumptions"]["input_per_output"]["value"] == pytest.approx(4.0, rel=0.02)
        assert told["assumptions"]["input_per_output"]["source"] == "measured"


@pytest.mark.parametrize(
    ("rate", "slo_ms", "invalid", "said"),
    [
        (7.5, {"ttft_p99_ms": 500.0}, (), "the SLO does not hold: ttft_p99_ms"),
        (3.0, {"ttft_p99.9_ms": 500.0}, (), "the SLO is not shown"),
        (3.0, {}, ("the generator was late",), "the run is invalid: the generator was late"),
    ],
)
def test_a_run_whose_figures_must_not_be_used_has_no_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float, slo_ms: dict[str, float], invalid: tuple[str, ...],
    said: str,
) -> None:  # fmt: skip
    file = summary_at(tmp_path, rate, slo_ms, invalid)
    assert main(["--measured", str(file), "--usd-per-hour", "1"]) == 1
    assert said in capsys.readouterr().err


def test_a_search_brings_the_throughput_of_its_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial(4.0, 1, True, rates={"input_tokens_per_s": 30.0, "output_tokens_per_s": 10.0})
    limits = {"ttft_p99_ms": 500.0}
    found = Result("found", 4.0, 3.0, 5.0, (trial,))
    for place in (tmp_path, tmp_path / RESULT_FILE):
        (tmp_path / RESULT_FILE).write_text(json.dumps(search_json(found, limits, Plan(), {})), encoding="utf-8")
        assert main(["--measured", str(place), "--gpu", "H100-80GB", "--api-price", "a=1/2", "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)["rows"][0]["figures"]
        assert figures["tokens_per_s"]["value"] == 10.0
        assert figures["tokens_per_s"]["source"] == "measured: 4 requests/s, the largest at ttft_p99_ms 500"
    unmet = Result("unmet", None, None, None, (trial,), "too slow")
    (tmp_path / RESULT_FILE).write_text(json.dumps(search_json(unmet, limits, Plan(), {})), encoding="utf-8")
    assert main(["--measured", str(tmp_path), "--gpu", "H100-80GB"]) == 1
    assert "the search found no rate: too slow" in capsys.readouterr().err


def test_what_is_no_measurement_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / RESULT_FILE).write_text("[]", encoding="utf-8")
    for place, said in ((tmp_path, "not a search's result"), (tmp_path / "none", "must be a run folder")):
        assert main(["--measured", str(place), "--usd-per-hour", "1"]) == 1
        assert said in capsys.readouterr().err
    assert main(["--measured", str(tmp_path), "--tokens-per-s", "1", "--usd-per-hour", "1"]) == 1
    assert "only one of" in capsys.readouterr().err
