"""Search and ladders: on a simulated server of known capacity, and on outcomes that are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conch_load.analysis.slo import UnknownObjectiveError
from conch_load.analysis.summary import Summary
from conch_load.config import ArrivalsConfig, RunConfig
from conch_load.report.write import LADDER_FILE
from conch_load.run import RunError
from conch_load.search import command
from conch_load.search.drive import Runner, climb
from conch_load.search.result import RESULT_FILE, as_json, as_text, headline
from conch_load.search.slo_search import Plan, Result, largest_rate
from conch_load.search.threshold import threshold
from conch_load.search.trial import SearchError, Trial, judge, percentile_limits, requests_needed
from queue_server import QueueServer

SERVER = QueueServer(places=8, mu_per_s=1.0)
LIMIT = {"ttft_p99_ms": 500.0}
KNOWN = SERVER.largest_rate(0.5, 99)  # 4.13/s of the 8/s that it can serve


def simulated(requests: int, base_seed: int, slo_ms: dict[str, float] | None = None) -> Callable[[float, int], Trial]:
    def run_at(rate: float, seed: int) -> Trial:
        return judge(SERVER.run(rate, 1000 * base_seed + seed, requests, slo_ms or LIMIT), rate)

    return run_at


def steady(limit: float) -> Callable[[float, int], Trial]:
    """A server without noise."""
    return lambda rate, seed: Trial(rate, seed, rate <= limit)


@pytest.fixture(scope="module")
def searches() -> list[Result]:
    """The same search, five times over, each with other seeds."""
    return [largest_rate(simulated(1500, base), Plan()) for base in range(5)]


def test_the_known_capacity_of_a_simulated_server_lies_in_the_interval(searches: list[Result]) -> None:
    for result in searches:
        assert result.outcome == "found"
        assert result.low_per_s is not None
        assert result.high_per_s is not None
        assert result.low_per_s <= KNOWN <= result.high_per_s
        assert result.high_per_s < 3 * result.low_per_s  # an interval that says something
        assert result.rate_per_s == pytest.approx(KNOWN, rel=0.2)


def test_a_search_that_is_repeated_lands_in_the_interval_of_the_first(searches: list[Result]) -> None:
    inside = [
        (one.low_per_s or 0) <= (other.rate_per_s or 0) <= (one.high_per_s or 0)
        for one in searches for other in searches if one is not other
    ]  # fmt: skip
    assert sum(inside) / len(inside) >= 0.9


def test_the_same_seeds_give_the_same_search(searches: list[Result]) -> None:
    assert largest_rate(simulated(1500, 0), Plan()) == searches[0]


def test_repeats_are_made_at_the_two_rates_that_matter(searches: list[Result]) -> None:
    for result in searches:
        rate = result.rate_per_s or 0
        assert len(result.at(rate)) >= 3
        missed = min(one.rate_per_s or math.inf for one in result.trials if one.holds is False
                     and (one.rate_per_s or 0) > rate)  # fmt: skip
        assert missed <= rate * 1.1 * (1 + 1e-9)
        assert len(result.at(missed)) >= 3


@pytest.mark.parametrize("limit", [0.07, 0.9, 1.0, 3.3, 100.0, 7777.0])
@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.5])
def test_without_noise_the_rate_is_within_the_tolerance(limit: float, tolerance: float) -> None:
    result = largest_rate(steady(limit), Plan(tolerance=tolerance, most_runs=100))
    assert result.outcome == "found"
    assert result.rate_per_s is not None
    assert limit / (1 + tolerance) <= result.rate_per_s <= limit
    assert result.low_per_s is not None
    assert result.high_per_s is not None
    assert result.low_per_s <= limit <= result.high_per_s


def test_one_odd_run_does_not_decide() -> None:
    odd = iter([True, True, False])  # 1/s holds, 2/s holds, 4/s misses by bad luck; then the server does as it should

    def run_at(rate: float, seed: int) -> Trial:
        return Trial(rate, seed, next(odd, rate <= 10))

    result = largest_rate(run_at, Plan())
    assert result.rate_per_s is not None
    assert 10 / 1.1 <= result.rate_per_s <= 10


def test_an_slo_that_nothing_can_meet_is_said_after_two_runs() -> None:
    def alone(seed: int) -> Trial:
        return Trial(None, seed, False, ("ttft_p99_ms: 40 of 40 requests late",))

    result = largest_rate(steady(0.0), Plan(), alone)
    assert result.outcome == "unmet"
    assert result.rate_per_s is None
    assert len(result.trials) == 2
    text = headline(as_json(result, LIMIT, Plan(), {}))
    assert text.startswith("Nothing meets ttft_p99_ms 500: one request at a time misses already")


def test_an_slo_that_no_rate_meets_though_single_requests_do() -> None:
    result = largest_rate(steady(0.0), Plan(lowest_per_s=0.25), lambda seed: Trial(None, seed, True))
    assert result.outcome == "unmet_at_lowest"
    assert result.rate_per_s is None
    assert len(result.at(0.25)) == 3
    assert "No rate was found" in headline(as_json(result, LIMIT, Plan(), {}))


def test_a_server_that_is_faster_than_the_highest_rate_has_no_upper_end() -> None:
    result = largest_rate(steady(1e9), Plan(highest_per_s=100))
    assert (result.outcome, result.rate_per_s, result.high_per_s) == ("at_highest", 100, None)
    assert "or more" in headline(as_json(result, LIMIT, Plan(), {}))


def test_an_invalid_run_that_holds_ends_the_search_with_what_there_is() -> None:
    def run_at(rate: float, seed: int) -> Trial:
        return Trial(rate, seed, True, invalid=("token counts differ",) if rate >= 4 else ())

    result = largest_rate(run_at, Plan())
    assert (result.outcome, result.rate_per_s) == ("stopped", 2.0)
    assert "the run at 4/s is invalid: token counts differ" in result.reason


def test_a_limit_of_the_generator_is_not_taken_for_the_servers() -> None:
    def run_at(rate: float, seed: int) -> Trial:
        return Trial(rate, seed, rate <= 3, invalid=() if rate <= 3 else ("the generator's event loop was late",))

    result = largest_rate(run_at, Plan())
    assert result.outcome == "limited"
    assert "event loop was late" in result.reason
    assert result.rate_per_s is not None


def test_an_invalid_run_that_misses_is_no_miss_if_the_generator_was_not_the_only_fault() -> None:
    def run_at(rate: float, seed: int) -> Trial:
        faults = ("the generator's event loop was late", "the server counted 9 output tokens in all, the tokenizer 7")
        return Trial(rate, seed, rate <= 3, invalid=() if rate <= 3 else faults)

    result = largest_rate(run_at, Plan())
    assert (result.outcome, result.rate_per_s, result.high_per_s) == ("stopped", 2.0, None)
    assert "the run at 4/s is invalid: the server counted 9" in result.reason


def test_rates_that_are_too_low_to_tell_are_left_behind() -> None:
    def run_at(rate: float, seed: int) -> Trial:
        return Trial(rate, seed, None if rate < 3 else rate <= limit, ("too few",) if rate < 3 else ())

    limit = 20.0
    result = largest_rate(run_at, Plan())
    assert result.outcome == "found"
    assert result.rate_per_s == pytest.approx(limit, rel=0.1)
    limit = 3.5
    result = largest_rate(run_at, Plan())
    assert (result.outcome, result.rate_per_s) == ("stopped", None)
    assert result.reason == "4/s misses, and below it a run cannot tell: too few"


def test_runs_that_never_tell_end_the_search() -> None:
    result = largest_rate(lambda rate, seed: Trial(rate, seed, None, ("too few",)), Plan(highest_per_s=10))
    assert (result.outcome, result.rate_per_s, len(result.trials)) == ("stopped", None, 4)
    assert "no rate up to 10/s can tell: too few" in result.reason
    told = iter([True, None])
    result = largest_rate(lambda rate, seed: Trial(rate, seed, next(told), ("why",)), Plan())
    assert (result.outcome, result.rate_per_s) == ("stopped", 1.0)
    assert "the run at 2/s cannot tell: why" in result.reason


def test_an_interrupted_search_tells_what_it_has() -> None:
    def run_at(rate: float, seed: int) -> Trial:
        if rate > 4:
            raise KeyboardInterrupt
        return Trial(rate, seed, True)

    result = largest_rate(run_at, Plan())
    assert (result.outcome, result.rate_per_s, result.reason) == ("stopped", 4.0, "interrupted")


def test_one_run_that_misses_by_far_is_not_outvoted_in_silence() -> None:
    held, missed = ({"ttft_p99_ms": counts} for counts in ((2, 700), (300, 700)))
    trials = tuple(Trial(4.0, seed, seed < 3, late=held if seed < 3 else missed) for seed in (1, 2, 3))
    told = as_json(Result("found", 4.0, 3.0, 5.0, trials), LIMIT, Plan(), {})
    assert told["pooled"][0]["outcome"] == "missed"
    assert "most runs at that rate hold, but taken together they miss ttft_p99_ms" in headline(told)


def test_a_search_ends_after_most_runs() -> None:
    result = largest_rate(steady(1000), Plan(most_runs=4))
    assert (result.outcome, result.rate_per_s, len(result.trials)) == ("stopped", 8.0, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start_per_s": 0.0}, "rates must be above 0"),
        ({"highest_per_s": 0.5}, "lowest <= start <= highest"),
        ({"tolerance": 0.0}, "tolerance must be from 0.001 to 1, got 0"),
        ({"repeats": 2}, "repeats must be odd.*got 2"),
        ({"most_runs": 0}, "most_runs must be 1 or more, got 0"),
        ({"start_per_s": math.nan}, "rates must be above 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(SearchError, match=said):
        Plan(**change)  # type: ignore[arg-type]


def test_the_threshold_narrows_with_runs() -> None:
    few = threshold([1.0, 2.0], [True, False])
    many = threshold([1.0, 1.3, 1.5, 2.0] * 5, [True, True, False, False] * 5)
    assert few.low < many.low < 1.4 < many.high < few.high


def test_a_run_is_judged_by_its_late_requests() -> None:
    holds, missed = (judge(SERVER.run(rate, 1, 1000, LIMIT), rate) for rate in (3.0, 7.0))
    assert holds.holds is True
    assert holds.reasons == ()
    assert missed.holds is False
    late, requests = missed.late["ttft_p99_ms"]
    assert late > 0.01 * requests >= 3.68
    assert f"{late} of {requests} requests late" in missed.reasons[0]


def test_too_few_requests_cannot_show_that_a_percentile_holds_but_can_show_that_it_is_missed() -> None:
    few = judge(SERVER.run(3.0, 1, 100, LIMIT), 3.0)
    assert few.holds is None
    assert few.reasons == ("ttft_p99_ms: 100 requests are too few, 368 are needed",)
    assert judge(SERVER.run(16.0, 1, 100, LIMIT), 16.0).holds is False


def test_a_server_that_does_not_keep_up_misses_whatever_its_latencies() -> None:
    behind = SERVER.run(20.0, 1, 400, {"ttft_p99_ms": 1e6})
    trial = judge(behind, 20.0)
    assert trial.holds is False
    assert "did not keep up" in trial.reasons[0]


def test_limits_of_a_search_are_percentiles() -> None:
    assert requests_needed({"ttft_p99_ms": 1, "tpot_p50_ms": 1}) == 368
    for limits, said in (({}, "must have a limit"), ({"ttft_ms": 1.0}, "must be of percentiles.*got ttft_ms")):
        with pytest.raises(SearchError, match=said):
            percentile_limits(limits)
    with pytest.raises(UnknownObjectiveError, match="ttft_p99"):
        percentile_limits({"ttft_p99": 1})


class Made:
    """Runs that are simulated, in the place of Locust's."""

    def __init__(self) -> None:
        self.asked: list[RunConfig] = []

    def __call__(self, config: RunConfig, folder: Path) -> Summary:
        self.asked.append(config)
        rate = config.arrivals.rate_per_s or 0.5
        return SERVER.run(rate, config.seed, max(400, round(rate * config.duration_s)), dict(config.slo_ms))


CONFIG = RunConfig(arrivals=ArrivalsConfig(kind="poisson", rate_per_s=1), slo_ms=LIMIT, duration_s=10)


def test_runs_of_a_search_are_long_enough_for_the_percentile(tmp_path: Path) -> None:
    make = Made()
    runner = Runner(CONFIG, tmp_path, tell=lambda text: None, make=make)
    runner.at(4.0, 7)
    runner.at(100.0, 8)
    assert [one.duration_s for one in make.asked] == [pytest.approx(2 * 368 / 4), 10]
    assert [(one.arrivals.rate_per_s, one.seed) for one in make.asked] == [(4.0, 7), (100.0, 8)]
    short = Runner(CONFIG, tmp_path, most_run_s=20, tell=lambda text: None, make=make)
    trial = short.at(4.0, 1)
    assert trial.holds is None
    assert "20 s (most_run_s) have fewer than the 368 requests" in trial.reasons[0]
    assert len(make.asked) == 2
    with pytest.raises(SearchError, match="requests must be 368 or more for these percentiles, got 300"):
        Runner(CONFIG, tmp_path, requests=300)


def test_a_whole_search_through_run_folders(tmp_path: Path) -> None:
    told: list[str] = []
    runner = Runner(CONFIG, tmp_path, requests=800, tell=told.append, make=Made())
    result = largest_rate(runner.at, Plan(start_per_s=2.0), runner.alone)
    assert result.outcome == "found"
    assert len(told) == len(result.trials)
    ladder = json.loads((tmp_path / LADDER_FILE).read_text(encoding="utf-8"))
    assert ladder["kind"] == "rate_per_s"
    assert [one["value"] for one in ladder["points"]] == sorted(one.rate_per_s or 0 for one in result.trials)
    out = as_json(result, LIMIT, Plan(), {})
    assert json.loads(json.dumps(out))["rate_per_s"] == result.rate_per_s
    assert out["pooled"][0]["requests"] >= 2.9 * 800
    assert out["rates"]["output_tokens_per_s"] == pytest.approx(2 * (result.rate_per_s or 0), rel=0.1)
    assert headline(out) in as_text(out)


def test_a_server_that_is_gone_ends_the_search_but_not_before_the_first_run(tmp_path: Path) -> None:
    make = Made()

    def gone(config: RunConfig, folder: Path) -> Summary:
        if len(make.asked) >= 2:
            raise RunError("no server")
        return make(config, folder)

    runner = Runner(CONFIG, tmp_path, tell=lambda text: None, make=gone)
    result = largest_rate(runner.at, Plan(), runner.alone)
    assert (result.outcome, result.rate_per_s) == ("stopped", 2.0)
    assert "no server" in result.reason
    with pytest.raises(RunError):
        Runner(CONFIG, tmp_path, make=gone).at(1.0, 1)


def test_a_ladder_is_climbed_in_order_with_one_seed(tmp_path: Path) -> None:
    make = Made()
    points = climb(CONFIG, "users", [4, 1, 2, 2], tmp_path, lambda text: None, make)
    assert [one.folder for one in points] == ["users-1", "users-2", "users-4"]
    assert [one.arrivals.users for one in make.asked] == [1, 2, 4]
    assert {one.seed for one in make.asked} == {CONFIG.seed}
    assert len({one.salt for one in make.asked}) == 3  # no step finds the prompts of another in the prefix cache
    climb(CONFIG, "rate_per_s", [2.5], tmp_path, lambda text: None, make)
    assert make.asked[-1].arrivals.rate_per_s == 2.5
    for values in ([], [0.0], [1.5]):
        with pytest.raises(SearchError, match="steps must be whole numbers of users"):
            climb(CONFIG, "users", values, tmp_path, lambda text: None, make)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("slo", "slo must be given"),
        ("slo --slo ttft_p99_ms=0", "must be a number of ms above 0, got 0"),
        ("slo --slo ttft_ms=5", "must be of percentiles"),
        ("slo --slo speed_p99_ms=5", "'speed_p99_ms' is no limit"),
        ("slo --slo ttft_p99_ms=5 --rate 3", "give --start-rate"),
        ("slo --slo ttft_p99_ms=5 --repeats 2", "repeats must be odd"),
        ("slo --slo ttft_p99_ms=5 --seed x", "seed"),
        ("slo --slo ttft_p99_ms=5 --arrivals steps", "--arrivals must be constant, poisson or gamma"),
        ("sweep --ladder-users 1,x", "--ladder-users must be numbers"),
        ("sweep --ladder-users 1 --ladder-rates 2", "only one of"),
        ("sweep --ladder-users 0", "steps must be whole numbers of users above 0, got 0"),
        ("sweep --ladder-rates 1,-2", "steps must be rates above 0"),
        ("sweep --ladder-users 1 --arrivals poisson", "give --ladder-rates"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    flags: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command.main([*flags.split(), "--out", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_has_runs_is_not_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rate-1").mkdir()
    assert command.main(["sweep", "--out", str(tmp_path)]) == 2
    assert "out must be a new or an empty folder" in capsys.readouterr().err


def test_no_server_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--target", "127.0.0.1:9", "--repository", str(tmp_path), "--out", str(tmp_path / "new")]
    assert command.main(["slo", "--slo", "ttft_p99_ms=5", *flags]) == 3
    assert capsys.readouterr().err.startswith("error: ")


def test_without_a_start_rate_it_begins_with_what_the_server_does_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Made()
    monkeypatch.setattr(command, "Runner", partial(Runner, make=make))
    monkeypatch.setattr(command, "write", lambda parent, remarks=(): None)  # the folders of simulated runs are empty
    flags = ["--out", str(tmp_path / "a"), "--duration-s", "10", "--requests", "800"]
    assert command.main(["slo", "--slo", "ttft_p99_ms=500", *flags]) == 0
    assert make.asked[0].arrivals.users == 1
    assert make.asked[1].arrivals.rate_per_s == pytest.approx(1.0, rel=0.2)  # 0.5/s takes too long to tell
    assert "ttft_p99_ms 500 holds up to" in capsys.readouterr().out
    made = json.loads((tmp_path / "a" / RESULT_FILE).read_text(encoding="utf-8"))
    assert made["outcome"] == "found"
    assert command.main(["slo", "--slo", "e2e_p50_ms=1", *flags[2:], "--out", str(tmp_path / "b")]) == 1
    assert "Nothing meets e2e_p50_ms 1: one request at a time misses already" in capsys.readouterr().out
