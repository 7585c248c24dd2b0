"""When a run's figures must not be used, by hand-made records."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from conch_load.config import RunConfig, checked
from conch_load.honesty.alone import Sample, check_answers
from conch_load.honesty.counts import IDS_EVERY, check_counts
from conch_load.honesty.limits import check_generator, check_requests
from conch_load.records import GeneratorSample, RequestRecord
from conch_load.users.live import Live, LiveBatch

MS, SECOND = 10**6, 10**9
CONFIG: RunConfig = checked({"duration_s": 20, "warm_up_s": 0, "front": "triton-grpc"})


def record(index: int = 1, **fields: Any) -> RequestRecord:
    """A good answer of four tokens: 100 ms to the first, 20 ms between."""
    sent = fields.pop("sent_ns", index * SECOND)
    stamps = tuple(sent + (100 + 20 * i) * MS for i in range(4))
    values: dict[str, Any] = {
        "index": index, "front": "triton-grpc", "worker": 0, "intended_ns": None, "sent_ns": sent, "chunk_ns": stamps,
        "final_ns": stamps[-1], "prompt_tokens": 8, "requested_tokens": 4, "chunk_tokens": (1, 1, 1, 1),
        "server_prompt_tokens": 8, "server_output_tokens": 4, "local_output_tokens": 4, "finish_reason": "length",
    }  # fmt: skip
    return RequestRecord(**{**values, **fields})


def sample(second: int, **fields: Any) -> GeneratorSample:
    return dataclasses.replace(GeneratorSample((second + 1) * SECOND, 0, 2.0, 0.2, 4, 0), **fields)


GOOD_SECONDS = [sample(second) for second in range(20)]


def test_a_generator_that_keeps_up_is_valid() -> None:
    figures, reasons = check_generator(CONFIG, GOOD_SECONDS, [record()])
    assert reasons == []
    assert (figures["seconds"], figures["loop_lag_ms_max"], figures["cpu_share_max"]) == (20, 2.0, 0.2)


@pytest.mark.parametrize(("bad", "valid"), [(1, True), (2, False)])  # 5 % and 10 % of twenty seconds
@pytest.mark.parametrize(
    ("field", "value", "text"), [("loop_lag_ms", 51.0, "more than 50 ms late"), ("cpu_share", 0.95, "90% of a core")]
)
def test_more_than_a_twentieth_of_bad_seconds_is_invalid(
    bad: int, valid: bool, field: str, value: float, text: str
) -> None:
    seconds = [sample(i, **{field: value}) if i < bad else sample(i) for i in range(20)]
    _, reasons = check_generator(CONFIG, seconds, [])
    assert (reasons == []) is valid
    assert valid or text in reasons[0]


def test_a_freeze_counts_as_long_as_it_lasts_though_it_leaves_one_sample() -> None:
    frozen = [sample(second) for second in range(8)] + [sample(17, loop_lag_ms=10_000.0), sample(18), sample(19)]
    (reason,) = check_generator(CONFIG, frozen, [])[1]
    assert "late in 50% of the time of worker 0" in reason
    at_the_end = [sample(second) for second in range(10)]
    assert "late in 45%" in check_generator(CONFIG, at_the_end, [record(18, sent_ns=18 * SECOND + SECOND // 5)])[1][0]


def test_one_bad_worker_does_not_hide_among_many_and_none_may_be_silent() -> None:
    config: RunConfig = CONFIG.model_copy(update={"workers": 30})
    many = [sample(second, worker=worker) for worker in range(30) for second in range(20)]
    assert check_generator(config, many, [])[1] == []
    busy = [dataclasses.replace(one, cpu_share=1.0) if one.worker == 7 else one for one in many]
    (reason,) = check_generator(config, busy, [])[1]
    assert "worker 7 used more than 90% of a core in 100% of the time" in reason
    (reason,) = check_generator(config, [one for one in many if one.worker != 7], [])[1]
    assert reason.startswith("only 29 of 30 workers left samples")


def test_late_starts_of_an_open_loop_are_invalid_beyond_one_in_a_hundred() -> None:
    def due(late: int) -> list[RequestRecord]:
        return [record(i, intended_ns=i * SECOND - (11 if i < late else 9) * MS) for i in range(200)]

    assert check_generator(CONFIG, GOOD_SECONDS, due(2))[1] == []
    figures, reasons = check_generator(CONFIG, GOOD_SECONDS, due(3))
    assert figures["late_starts"] == 3
    assert "3 of 200 requests (1.5%) were sent more than 10 ms after they were due" in reasons[0]


def test_no_samples_no_success_and_requests_that_were_not_sent_are_invalid() -> None:
    assert check_generator(CONFIG, [], [record()])[1]
    assert check_requests(CONFIG, [record(error_code="503")], 0)[1] == ["no request of the measured part succeeded"]
    assert check_requests(CONFIG, [record(1), record(2)], 2)[1] == []
    assert check_requests(CONFIG, [record(1), record(2)], 3)[1] == ["only 2 of 3 requests that were due were sent"]


def test_errors_are_counted_by_code_and_make_nothing_invalid() -> None:
    records = [record(1), record(2, error_code="cut"), record(3, error_code="cut"), record(4, final_ns=None)]
    figures, reasons = check_requests(CONFIG, records, 0)
    assert reasons == []
    assert figures["errors"] == {"cut": 2, "unfinished": 1}
    assert (figures["measured"], figures["succeeded"]) == (4, 1)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"server_prompt_tokens": 9}, "of 1 of 20 prompts .* request 3 has 8, the server says 9"),
        ({"server_output_tokens": 5}, "of 1 of 20 answers of a forced length .* request 3 has 4, the server says 5"),
        ({"index": IDS_EVERY, "finish_reason": "stop", "server_output_tokens": 3}, "of 1 of 1 answers with token ids"),
    ],
)
def test_a_single_wrong_count_fails_where_it_is_known_exactly(fields: dict[str, Any], text: str) -> None:
    records = [record(i) for i in range(1, 21)]
    records = [r for r in records if r.index % IDS_EVERY]
    records += [record(IDS_EVERY + 1 + i) for i in range(20 - len(records))]
    assert check_counts(CONFIG, records, exact_prompts=True)[1] == []
    records[2] = dataclasses.replace(records[2], **fields)
    (reason,) = check_counts(CONFIG, records, exact_prompts=True)[1]
    assert re.search(text, reason)


def test_texts_may_be_cut_in_another_way_but_not_most_of_them() -> None:
    def answers(off: int) -> list[RequestRecord]:
        return [
            record(i, finish_reason="stop", server_output_tokens=100, local_output_tokens=80 if i <= off else 100)
            for i in range(1, 15)
        ]  # fmt: skip

    assert check_counts(CONFIG, answers(1), exact_prompts=True)[1] == []
    assert "of 2 of 14 texts" in check_counts(CONFIG, answers(2), exact_prompts=True)[1][0]
    unchecked: RunConfig = CONFIG.model_copy(update={"check_tokens": False})
    assert check_counts(unchecked, answers(14), exact_prompts=True)[1] == []


def test_a_server_that_counts_two_more_in_each_answer_is_caught_and_one_more_is_a_special_token() -> None:
    def answers(more: int) -> list[RequestRecord]:
        return [
            record(i, front="openai", finish_reason="stop", server_output_tokens=60 + i + more,
                   local_output_tokens=60 + i, requested_tokens=1) for i in range(1, 15)
        ]  # fmt: skip

    assert check_counts(CONFIG, answers(1), exact_prompts=True)[1] == []
    (reason,) = check_counts(CONFIG, answers(2), exact_prompts=True)[1]
    assert "counted +2 tokens in 14 of 14 answers" in reason


def test_prompts_of_completions_may_differ_from_a_bare_tokenizer_by_one_number_only() -> None:
    same = [record(i, server_prompt_tokens=10) for i in range(1, 10)]
    figures, reasons = check_counts(CONFIG, same, exact_prompts=False)
    assert (figures["prompts_offset"], reasons) == (2, [])
    other = [*same, record(10, server_prompt_tokens=11)]
    assert "of 1 of 10 prompts" in check_counts(CONFIG, other, exact_prompts=False)[1][0]


def test_a_forced_length_that_the_server_ignores_is_a_warning() -> None:
    short = [record(i, requested_tokens=64, finish_reason="stop") for i in range(1, 10)]
    (warning,) = check_counts(CONFIG, short, exact_prompts=True)[0]["warnings"]
    assert warning.startswith("9 of 9 answers are shorter than the length they were forced to (request 1: 4 of 64")


def test_answers_that_could_not_be_asked_for_again_are_said() -> None:
    failed = {"asked": 0, "same": 0, "deterministic": False, "errors": ["503: busy"], "differing": [], "ids_wrong": []}
    figures, reasons = check_answers(failed)
    assert reasons == []
    assert "503: busy" in figures["warnings"][0]
    assert "no answer to compare" in check_answers({**failed, "deterministic": True})[1][0]


def test_a_sample_of_unknown_length_is_spread_evenly() -> None:
    kept = Sample()
    for index in range(5000):
        kept.add(record(index))
    picked = [r.index for r in kept.pick(8)]
    assert picked == sorted(picked)
    assert picked[0] < 400
    assert picked[-1] > 3500
    assert len(kept.records) <= 256


def test_the_live_page_has_a_point_for_each_second_of_a_window_of_ten() -> None:
    live, batch = Live(), LiveBatch()
    batch.add(record(1))
    batch.add(record(2, error_code="cut"))
    live.take(0, 0, dataclasses.asdict(batch), [dataclasses.asdict(sample(0))])
    points = live.points(12)
    assert [point["second"] for point in points] == list(range(12))
    assert points[0]["ttft_ms"] == {"p50": 100.0, "p95": 100.0, "p99": 100.0}
    assert points[0]["tpot_ms"]["p50"] == 20.0
    assert points[9]["output_tokens_per_s"] == pytest.approx(0.4)
    assert points[10]["ttft_ms"] is None
    assert (live.requests, live.errors["cut"]) == (2, 1)


def test_the_live_page_has_no_first_token_where_the_whole_answer_comes_at_once() -> None:
    batch = LiveBatch()
    batch.add(record(1, front="triton-http"))
    assert (batch.ttft_ms, batch.e2e_ms) == ([], [160.0])


def test_other_answers_under_load_are_a_fault_in_deterministic_mode_and_a_rate_otherwise() -> None:
    found = {"asked": 8, "same": 6, "deterministic": False, "differing": [3, 5], "ids_checked": 8, "ids_wrong": []}
    figures, reasons = check_answers(found)
    assert (figures["same_share"], reasons) == (0.75, [])
    (reason,) = check_answers({**found, "deterministic": True})[1]
    assert reason.startswith("2 of 8 greedy answers under load differ")
    (reason,) = check_answers({**found, "ids_wrong": [4]})[1]
    assert reason.startswith("1 of 8 answers asked for alone have token ids")
    assert check_answers(None) == ({"asked": 0}, [])
