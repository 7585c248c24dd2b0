"""What a load test may be asked for, and what is said about what it may not."""

from __future__ import annotations

import random
import statistics

import pytest
from conch_load.config import ConfigError, Length, RunConfig, checked
from conch_load.flags import config_of, plain_parser


def parsed(*flags: str, users: int | None = None) -> RunConfig:
    return config_of(vars(plain_parser("t", "t").parse_args(flags)), users)


def test_the_defaults_are_a_closed_loop_of_sixteen_users() -> None:
    config = parsed()
    assert (config.front, config.arrivals.kind, config.arrivals.users) == ("triton-grpc", "closed", 16)
    assert (config.duration_s, config.warm_up_s, config.workload.input_tokens) == (60, 5, "64")
    assert config.ramp_up_s == 2.5


def test_a_rate_alone_is_an_open_loop() -> None:
    config = parsed("--rate", "4", "--slo", "ttft_p99_ms=500,tpot_p99_ms=100")
    assert (config.arrivals.kind, config.arrivals.rate_per_s, config.arrivals.users) == ("poisson", 4.0, None)
    assert config.slo_ms == {"ttft_p99_ms": 500, "tpot_p99_ms": 100}
    assert parsed("--steps", "1:10,3:20").arrivals.steps == ((1, 10), (3, 20))


def test_a_config_goes_through_json_unchanged() -> None:
    config = parsed("--workload", "distribution", "--input-tokens", "lognormal:64:32", "--rate", "2", "--seed", "7")
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("flags", "users", "text"),
    [
        (("--rate", "4"), 8, "users has no meaning for poisson arrivals, got 8"),
        (("--arrivals", "closed", "--rate", "4"), 8, "rate has no meaning for closed arrivals, got 4"),
        (("--arrivals", "gamma"), None, "rate must be given for gamma arrivals"),
        (("--max-connections", "4"), 8, "max_connections has no meaning for closed arrivals, got 4"),
        (("--rate", "-1"), None, "greater than 0, got '-1'"),
        (("--arrivals", "steps"), None, "steps must be given"),
        (("--steps", "1:2:3"), None, "steps must be RATE:SECONDS"),
        (("--input-tokens", "uniform:3:4"), None, "input_tokens of a fixed workload must be one number"),
        (("--input-tokens", "many"), None, "workload.input_tokens: must be a whole number >= 1"),
        (("--input-tokens", "0"), None, "must be a whole number >= 1"),
        (("--workload", "mooncake"), None, "path must be given for the workload mooncake"),
        (("--path", "x"), None, "path has no meaning for the workload fixed"),
        (("--arrivals", "trace"), None, "arrivals trace needs a workload mooncake or burstgpt, got fixed"),
        (("--duration-s", "soon"), None, "duration_s: .* got 'soon'"),
        (("--slo", "ttft_p99=3"), None, "slo_ms: 'ttft_p99' is no limit; it must be METRIC_pNN_ms or METRIC_ms"),
        (("--slo", "latency_p99_ms=500"), None, "slo_ms: 'latency_p99_ms' is no limit"),
        (("--slo", "ttft_p99_ms=nan"), None, "slo_ms.*: .*finite number"),
        (("--slo", "ttft_p99_ms=inf"), None, "slo_ms.*: .*finite number"),
        (("--slo", "ttft_p99_ms=-5"), None, "slo_ms: ttft_p99_ms must be a number of ms above 0, got -5"),
        (("--slo", "ttft_p100_ms=5"), None, "slo_ms: ttft_p100_ms: the percentile must be between 0 and 100"),
        (("--duration-s", "inf"), None, "duration_s: .*finite number, got 'inf'"),
        (("--slo", "ttft_p99_ms=x"), None, "slo must be NAME_MS=NUMBER"),
    ],
)
def test_what_cannot_be_is_refused_by_name(flags: tuple[str, ...], users: int | None, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parsed(*flags, users=users)


def test_a_client_with_few_connections_sends_late_by_design() -> None:
    assert parsed("--rate", "4").max_late_share == 0.01
    bounded = parsed("--rate", "4", "--max-connections", "2")
    assert (bounded.arrivals.max_connections, bounded.max_late_share) == (2, 1)
    assert parsed("--rate", "4", "--max-connections", "2", "--max-late-share", "0.5").max_late_share == 0.5
    with pytest.raises(ConfigError, match="max_connections must be one for each of the 3 workers or more, got 2"):
        checked({**bounded.model_dump(), "workers": 3})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="colour"):
        checked({"colour": "red"})


@pytest.mark.parametrize("text", ["uniform:9:3", "normal:5", "lognormal:0:3", "gauss:1:2", "-3", "uniform:1.5:3"])
def test_a_length_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number >= 1, uniform"):
        Length.parse(text)


@pytest.mark.parametrize("text", ["uniform:32:128", "normal:64:16", "lognormal:64:32"])
def test_lengths_have_the_mean_and_deviation_that_were_asked_for(text: str) -> None:
    length, rng = Length.parse(text), random.Random(3)
    drawn = [length.draw(rng) for _ in range(40_000)]
    mean, deviation = (80, (97 * 97 - 1) ** 0.5 / 12**0.5) if text.startswith("uniform") else (64, length.b)
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.02)
    assert statistics.pstdev(drawn) == pytest.approx(deviation, rel=0.05)
    assert min(drawn) >= 1
    assert str(length) == text
