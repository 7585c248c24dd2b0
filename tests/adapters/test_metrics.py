"""What the engine stage counts, as Triton's registry would show it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from triton_side import Refused, Rows, Stages

from conch import metric_table as table
from conch.engines.base import EngineState
from conch.metric_table import MetricSpec
from conch.triton.metrics import Exporter
from conch.triton.tally import Counts, Histogram

WITHIN_S = 5


def prompt(ids: list[int], **controls: Any) -> dict[str, Any]:
    """A request of one row, under the engine's names."""
    return {"input_ids": np.array([ids], dtype=np.int32), "input_lengths": len(ids), **controls}


def value(name: str, **labels: str) -> float:
    """Sum over all series of a name that have these labels."""
    wanted = set(labels.items())
    return sum(number for (n, own), number in pb_utils.series.items() if n == name and wanted <= set(own))


def times(spec: MetricSpec) -> int:
    """How many values a histogram has."""
    return sum(number for (name, _), number in pb_utils.observed.items() if name == spec.name)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, {k: v for k, v in pb_utils.series.items() if v and "bucket" not in k[0]}
        time.sleep(0.01)


@pytest.fixture
def own(make_stages: Callable[..., Stages]) -> Stages:
    """Stages of their own; every series is 0, since those of other stages are removed."""
    pb_utils.series.clear()
    return make_stages(engine={"max_batch_size": 1}, serving={"max_queue_size": 1})


def test_every_series_is_there_from_the_beginning(own: Stages) -> None:
    wait_for(lambda: len(pb_utils.series) > 0 and value(table.BATCH_SIZE.name + "_count") == 0)
    names = {name for name, _ in pb_utils.series}
    for spec in table.METRICS:
        parts = [f"{spec.name}_{part}" for part in ("bucket", "sum", "count")] if spec.frequent else [spec.name]
        assert names >= set(parts)
    assert {dict(labels)["finished_reason"] for n, labels in pb_utils.series if n == table.REQUESTS.name} == {
        "stop", "length", "cancelled", "error",
    }  # fmt: skip
    assert not any(pb_utils.series.values())
    assert all(dict(labels)["model"] == "small" and dict(labels)["version"] == "1" for _, labels in pb_utils.series)


def test_counts_of_answers(own: Stages) -> None:
    own.generate(prompt([5, 6, 7], request_output_len=5))
    own.generate(prompt([5, 6], request_output_len=4, streaming=True))
    values = {"input_ids": np.array([[5, 6, 7], [8, 9, 9]], dtype=np.int32), "input_lengths": Rows([3, 1])}
    own.generate({**values, "request_output_len": Rows([6, 1])})
    wait_for(lambda: value(table.REQUESTS.name) == 4)
    wait_for(lambda: value(table.BATCH_SIZE.name + "_sum") == 16)
    assert value(table.REQUESTS.name, finished_reason="length") == 4
    assert value(table.PROMPT_TOKENS.name) == value(table.REQUEST_PROMPT.name) == 3 + 2 + 3 + 1
    assert value(table.OUTPUT_TOKENS.name) == value(table.REQUEST_OUTPUT.name) == 5 + 4 + 6 + 1
    once = (table.TTFT, table.QUEUE_TIME, table.PREFILL_TIME, table.DECODE_TIME, table.E2E_TIME, table.REQUEST_PROMPT)
    assert {spec.name: times(spec) for spec in once} == {spec.name: 4 for spec in once}
    assert value(table.INTER_TOKEN.name + "_count") == 16 - 4
    assert value(table.INTER_TOKEN.name + "_bucket", le="+Inf") == 16 - 4
    assert value(table.INTER_TOKEN.name + "_sum") == pytest.approx(value(table.DECODE_TIME.name))


def test_failures(make_stages: Callable[..., Stages]) -> None:
    stages = make_stages(
        engine={"max_batch_size": 1, "echo_itl_ms": 50}, serving={"max_queue_size": 1, "queue_timeout_ms": 700}
    )
    pb_utils.series.update(dict.fromkeys(pb_utils.series, 0.0))
    running = stages.submit(prompt([5], request_output_len=100, streaming=True))
    waiting = stages.submit(prompt([5], request_output_len=2))
    wait_for(lambda: (value(table.RUNNING.name), value(table.WAITING.name)) == (1, 1))
    (full,) = stages.generate(prompt([5], request_output_len=2))
    (late,) = stages.collect(waiting)
    assert isinstance(full, Refused)
    assert isinstance(late, Refused)
    running.cancelled.set()
    stages.collect(running)
    # Refused by the stage, so no request of the engine:
    stages.generate(prompt([5], request_output_len=2, runtime_top_p=3.0))
    wait_for(lambda: value(table.REQUESTS.name) == 3)
    assert value(table.REQUESTS.name, finished_reason="error") == value(table.ERRORS.name, code="UNAVAILABLE") == 2
    assert value(table.REQUESTS.name, finished_reason="cancelled") == 1
    wait_for(lambda: (value(table.RUNNING.name), value(table.WAITING.name)) == (0, 0))
    assert times(table.QUEUE_TIME) == times(table.TTFT) == 1  # of the one that had tokens


def test_a_long_answer_is_counted_while_it_goes_on(make_stages: Callable[..., Stages]) -> None:
    stages = make_stages(engine={"echo_itl_ms": 20})
    before = value(table.OUTPUT_TOKENS.name)
    sender = stages.submit(prompt([5], request_output_len=200, streaming=True))  # four seconds
    wait_for(lambda: value(table.OUTPUT_TOKENS.name) - before > 60)
    assert not sender.finals
    sender.cancelled.set()
    stages.collect(sender)


def test_a_request_that_is_stopped_is_cancelled(make_stages: Callable[..., Stages]) -> None:
    stages = make_stages(engine={"echo_itl_ms": 20})
    before = value(table.REQUESTS.name, finished_reason="cancelled")
    sender = stages.submit(prompt([5], request_output_len=100, streaming=True))
    wait_for(lambda: len(sender.responses) >= 2)
    stages.engine._outbox.stop("")  # the id that the request was given
    assert stages.collect(sender)[-1]["finish_reason"].tolist() == [[b"cancelled"]]
    wait_for(lambda: value(table.REQUESTS.name, finished_reason="cancelled") == before + 1)


def test_news_of_the_engine(own: Stages) -> None:
    report = own.engine._outbox.state
    report(EngineState(0.25, 100, 40))
    report(EngineState(0.5, 150, 60))
    wait_for(lambda: value(table.PREFIX_QUERIES.name) == 150)
    assert value(table.PREFIX_HITS.name) == 60
    wait_for(lambda: value(table.KV_USAGE.name) == 0.5)
    report(EngineState(0.0, 150, 60))
    wait_for(lambda: value(table.KV_USAGE.name) == 0)
    assert value(table.PREFIX_QUERIES.name) == 150


def test_nothing_is_left_of_an_engine_that_was_unloaded(make_stages: Callable[..., Stages]) -> None:
    before = set(pb_utils.series)
    first, second = make_stages(), make_stages()
    wait_for(lambda: len(set(pb_utils.series) - before) == 2 * len(_series_of_one()))
    second.generate(prompt([5], request_output_len=2))
    first.close()
    left = set(pb_utils.series) - before
    assert len(left) == len(_series_of_one())
    assert len({dict(labels)["pid"] for _, labels in left}) == 1
    second.close()  # what was counted last is told before it goes
    assert set(pb_utils.series) <= before


def _series_of_one() -> list[str]:
    return [s.name for s in table.METRICS for _ in range(len(s.bounds) + 3 if s.frequent else max(1, len(s.values)))]


def test_without_metrics_the_engine_works(make_stages: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pb_utils, "metrics_on", False)
    stages = make_stages()
    (output,) = stages.generate(prompt([5], request_output_len=2))
    assert output["finish_reason"].tolist() == [[b"length"]]


def test_buckets_are_cumulative_and_a_reader_never_sees_one_above_a_larger_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pb_utils.series.clear()
    exporter = Exporter("m", 7)
    seen: list[list[float]] = []
    bounds = [*map(repr, table.INTER_TOKEN.bounds), "+Inf"]
    change = pb_utils.Metric._change

    def look(self: pb_utils.Metric, by: float) -> None:
        change(self, by)
        name = table.INTER_TOKEN.name
        seen.append([*(value(f"{name}_bucket", le=le) for le in bounds), value(f"{name}_count")])

    monkeypatch.setattr(pb_utils.Metric, "_change", look)
    histogram = Histogram(table.INTER_TOKEN.bounds)
    for seconds, number in ((0.001, 3), (0.0011, 1), (0.02, 5), (1000.0, 2), (-1.0, 1)):
        histogram.observe(seconds, number)
        exporter.add(Counts({}, [], {table.INTER_TOKEN.name: histogram.copy()}))
    assert all(buckets == sorted(buckets) for buckets in seen)
    assert dict(zip(bounds, seen[-1], strict=False))["0.001"] == 4  # the bound belongs to its bucket; below 0 is 0
    assert dict(zip(bounds, seen[-1], strict=False))["0.0025"] == 5
    assert seen[-1][-3:] == [10, 12, 12]
    exporter.close()


def test_tokens_cost_no_call_of_triton(own: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    callers: set[str] = set()
    change = pb_utils.Metric._change

    def note(self: pb_utils.Metric, by: float) -> None:
        callers.add(threading.current_thread().name)
        change(self, by)

    monkeypatch.setattr(pb_utils.Metric, "_change", note)
    own.generate(prompt([5], request_output_len=100, streaming=True))
    wait_for(lambda: value(table.OUTPUT_TOKENS.name) == 100)
    assert callers == {"reporter"}
