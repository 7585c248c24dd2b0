"""Metrics and the request log of a real server, against what its clients counted."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conch_client.metrics import Metrics, parse_metrics
from server_processes import Server, echo_spec, running_server, wait_until, write_echo_release
from test_disconnects import worker_of
from triton_calls import TIMEOUT_S, arrays_of, ask, generate, grpc_stub, message_of, read, version_folder

from conch import metric_table as table
from conch.contract import ENGINE, ENSEMBLE
from conch.engines.prefix_mirror import BLOCK_TOKENS
from conch.metric_table import MetricSpec
from conch.spec import ModelSpec, parse_spec

pytestmark = pytest.mark.e2e

TOLD_WITHIN_S = 10
PROMPT = "Once upon a time"
LONG = {"text_input": PROMPT, "temperature": 0.0, "end_id": -1, "max_tokens": 4000, "stream": True}
COUNTED = {"return_num_input_tokens": True, "return_num_output_tokens": True}
PER_REQUEST = (table.QUEUE_TIME, table.PREFILL_TIME, table.DECODE_TIME, table.E2E_TIME, table.REQUEST_PROMPT)


def scrape(server: Server) -> Metrics:
    """What the metrics port says."""
    with urllib.request.urlopen(f"http://{server.host}:{server.metrics_port}/metrics", timeout=10) as page:
        return parse_metrics(page.read().decode())


class Delta:
    """What grew between two looks."""

    def __init__(self, before: Metrics, after: Metrics) -> None:
        self._before, self._after = before, after

    def of(self, spec: MetricSpec, suffix: str = "", **labels: str) -> float:
        name = spec.name + suffix
        return self._after.total(name, **labels) - self._before.total(name, **labels)

    def reasons(self) -> dict[str, float]:
        grew = {r: self.of(table.REQUESTS, finished_reason=r) for r in table.REQUESTS.values}
        return {r: n for r, n in grew.items() if n}


def settled(server: Server) -> Metrics:
    """When nothing is under way any more, and what was counted last has been told."""
    assert table.RUNNING.name in scrape(server).text
    wait_until(lambda: idle(scrape(server)), TOLD_WITHIN_S)
    time.sleep(1)
    return scrape(server)


def idle(metrics: Metrics) -> bool:
    return metrics.total(table.RUNNING.name) == 0 and metrics.total(table.WAITING.name) == 0


def counted(server: Server, before: Metrics, rows: int) -> Delta:
    """When so many rows more have ended."""

    def ended() -> float:
        return Delta(before, scrape(server)).of(table.REQUESTS)

    wait_until(lambda: ended() >= rows, TOLD_WITHIN_S)
    delta = Delta(before, settled(server))
    assert delta.of(table.REQUESTS) == rows
    return delta


@dataclass
class Told:
    """What a client saw of its requests."""

    reasons: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    def add(self, reply: Any, seconds: float) -> None:
        assert not reply.error
        last = reply.responses[-1]
        self.reasons.update(r.decode() for r in np.asarray(last["finish_reason"]).reshape(-1))
        self.prompt_tokens += int(np.sum(last["num_input_tokens"]))
        self.output_tokens += sum(int(np.sum(r["num_output_tokens"])) for r in reply.responses)
        self.seconds += seconds


def send(server: Server, model: str, requests: list[dict[str, Any]]) -> Told:
    """All at once."""
    told = Told()

    def one(fields: dict[str, Any]) -> None:
        begin = time.monotonic()
        reply = ask(server, model, fields)
        told.add(reply, time.monotonic() - begin)

    with ThreadPoolExecutor(len(requests)) as pool:
        for done in [pool.submit(one, fields) for fields in requests]:
            done.result(TIMEOUT_S)
    return told


def log_lines(server: Server) -> list[dict[str, str]]:
    """The request log's lines, as key and value."""
    text = server.run_dir.triton_log.read_text(errors="replace")
    found = re.findall(rf"^\S+Z {ENGINE.name} INFO request (.*)$", text, re.MULTILINE)
    return [dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line)) for line in found]


def test_counts_and_times_are_those_of_the_clients(server: Server) -> None:
    before = settled(server)
    fields = {"text_input": PROMPT, "end_id": -1, **COUNTED}
    requests: list[dict[str, Any]] = [
        {**fields, "text_input": f"{PROMPT} {n}", "max_tokens": 5 + n, "stream": n % 2 == 0} for n in range(12)
    ]
    chat = json.dumps([{"role": "user", "content": "What is the capital of France?"}])
    requests.append({"messages": chat, "temperature": 0.0, "max_tokens": 100, **COUNTED})  # ends by itself
    told = send(server, ENSEMBLE.name, requests)
    delta = counted(server, before, len(requests))
    assert told.reasons["stop"] == 1
    assert delta.reasons() == dict(told.reasons)
    assert delta.of(table.PROMPT_TOKENS) == delta.of(table.REQUEST_PROMPT, "_sum") == told.prompt_tokens
    assert delta.of(table.OUTPUT_TOKENS) == delta.of(table.REQUEST_OUTPUT, "_sum") == told.output_tokens
    assert delta.of(table.BATCH_SIZE, "_sum") == told.output_tokens  # one token for a row and step
    for spec in (*PER_REQUEST, table.TTFT):
        assert delta.of(spec, "_count") == delta.of(spec, "_bucket", le="+Inf") == len(requests)
    assert delta.of(table.INTER_TOKEN, "_count") == told.output_tokens - len(requests)
    assert delta.of(table.INTER_TOKEN, "_bucket", le="+Inf") == told.output_tokens - len(requests)
    assert_times(delta, told.seconds)


def assert_times(delta: Delta, client_s: float) -> None:
    """Parts of a request's time are not below 0, add up, and are less than what the clients waited."""
    parts = [delta.of(spec, "_sum") for spec in (table.QUEUE_TIME, table.PREFILL_TIME, table.DECODE_TIME)]
    assert all(part >= 0 for part in parts)
    assert parts[1] > 0
    assert parts[2] == pytest.approx(delta.of(table.INTER_TOKEN, "_sum"), rel=1e-3)
    assert delta.of(table.TTFT, "_sum") == pytest.approx(parts[0] + parts[1], rel=1e-3)
    assert sum(parts) <= delta.of(table.E2E_TIME, "_sum") <= client_s


def test_counts_stay_right_with_cancels_stop_words_errors_and_refusals(server: Server) -> None:
    before, lines_before = settled(server), len(log_lines(server))
    input_tokens = ask(server, ENSEMBLE.name, {"text_input": PROMPT, "max_tokens": 1, **COUNTED}).total(
        "num_input_tokens"
    )
    received: list[int] = []

    def cancel(_: int) -> None:
        with grpc_stub(server) as stub:
            call = stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of(LONG))]), timeout=TIMEOUT_S)
            received.append(len([next(call) for _ in range(3)]))
            call.cancel()

    def late(_: int) -> None:
        error = ask(server, ENSEMBLE.name, {**LONG, "stream": False, "timeout_ms": 1}).error
        assert "DEADLINE_EXCEEDED: " in error

    def refused(_: int) -> None:
        assert "INVALID_ARGUMENT: " in ask(server, ENSEMBLE.name, {**LONG, "top_p": 3.0}).error

    stopping = {"text_input": PROMPT, "temperature": 0.0, "stop_words": [" "], "max_tokens": 200, **COUNTED}
    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(what, n) for what in (cancel, late, refused) for n in range(3)]
        told = send(server, ENSEMBLE.name, [{**stopping, "stream": n % 2 == 0} for n in range(4)])
        for done in others:
            done.result(TIMEOUT_S)
    delta = counted(server, before, 1 + 4 + 3 + 3)
    assert told.reasons == {"stop": 4}
    assert delta.reasons() == {"length": 1, "stop": 4, "cancelled": 3, "error": 3}
    assert delta.of(table.ERRORS, code="DEADLINE_EXCEEDED") == delta.of(table.ERRORS) == 3
    begun = delta.of(table.TTFT, "_count")
    assert 1 + 4 + 3 <= begun <= 1 + 4 + 3 + 3  # a millisecond may be enough for a first token
    assert delta.of(table.PROMPT_TOKENS) == begun * input_tokens
    assert all(delta.of(spec, "_count") == begun for spec in PER_REQUEST)
    # The engine may be a step ahead of a stop word, and is ahead of a client that goes away.
    assert delta.of(table.OUTPUT_TOKENS) >= 1 + told.output_tokens + sum(received)
    lines = log_lines(server)[lines_before:]
    assert len(lines) == 1 + 4 + 3 + 3
    assert Counter(line["finish"] for line in lines) == {"length": 1, "stop": 4, "cancelled": 3, "error": 3}
    assert sum(int(line["output_tokens"]) for line in lines) == delta.of(table.OUTPUT_TOKENS)
    assert [line["error"] for line in lines if line["finish"] == "error"] == ["DEADLINE_EXCEEDED"] * 3
    wait_until(
        lambda: scrape(server).total(table.KV_USAGE.name) == before.total(table.KV_USAGE.name), TOLD_WITHIN_S
    )


def test_a_prompt_that_begins_as_another_did_is_found_so_far(server: Server) -> None:
    """The prefix cache is on by default; whole blocks are found, and what both have of the next may be."""
    shared = "".join(f" shared{n}" for n in range(40))
    found = []
    for tail in (" one", " two"):
        before = settled(server)
        fields = {"text_input": f"{shared}{tail * 40}", "max_tokens": 2, **COUNTED}
        told = send(server, ENSEMBLE.name, [fields])
        delta = counted(server, before, 1)
        assert delta.of(table.PREFIX_QUERIES) == told.prompt_tokens
        found.append(delta.of(table.PREFIX_HITS))
    with_tail = told.prompt_tokens
    shared_tokens = with_tail - 40
    assert found[0] < BLOCK_TOKENS
    assert shared_tokens - BLOCK_TOKENS < found[1] <= shared_tokens


def test_blocks_of_a_cancelled_request_are_free_while_others_run_on(server: Server) -> None:
    """How soon: docs/operations.md. In steps of the engine: tests/unit/test_engines_prefix_mirror.py."""
    before, large = settled(server), {**LONG, "text_input": " word" * 1000}
    with grpc_stub(server) as stub, ThreadPoolExecutor(2) as pool:

        def begin(fields: dict[str, Any], name: str) -> Any:
            call = stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of(fields), name)]), timeout=TIMEOUT_S)
            assert not next(call).error_message
            return call, pool.submit(read, call)

        _, gone = begin(large, "large")
        kept, others = begin(LONG, "kept")
        wait_until(lambda: scrape(server).total(table.RUNNING.name) == 2, TOLD_WITHIN_S)
        used = scrape(server).total(table.KV_USAGE.name)
        assert read(begin_stop(stub, "large")).finish_reason == "cancelled"
        wait_until(lambda: scrape(server).total(table.KV_USAGE.name) < used / 2, TOLD_WITHIN_S)
        assert gone.result(TIMEOUT_S).finish_reason == "cancelled"
        assert scrape(server).total(table.RUNNING.name) == 1
        assert not others.done()
        kept.cancel()
    assert Delta(before, settled(server)).reasons() == {"cancelled": 2}


def begin_stop(stub: Any, name: str) -> Any:
    """A request that ends the one of this id."""
    return stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of({"stop": True}), name)]), timeout=TIMEOUT_S)


def test_an_engine_that_dies_under_load(server: Server, tmp_path: Path) -> None:
    streams = 8
    with running_server(server.repository, tmp_path) as own:
        before, lines_before = settled(own), len(log_lines(own))
        with grpc_stub(own) as stub, ThreadPoolExecutor(streams) as pool:
            messages = [message_of(ENSEMBLE.name, arrays_of(LONG), f"dies-{n}") for n in range(streams)]
            calls = [stub.ModelStreamInfer(iter([message]), timeout=TIMEOUT_S) for message in messages]
            assert not [first.error_message for first in pool.map(next, calls) if first.error_message]
            wait_until(lambda: scrape(own).total(table.RUNNING.name) == streams, TOLD_WITHIN_S)
            assert scrape(own).total(table.KV_USAGE.name) > before.total(table.KV_USAGE.name)
            os.kill(worker_of(own).pid, signal.SIGKILL)
            assert all("UNAVAILABLE" in reply.error for reply in pool.map(read, calls))
        # The supervisor asks, too, until the engine is back.
        wait_until(lambda: Delta(before, scrape(own)).of(table.REQUESTS) > streams, 30)
        delta, lines = Delta(before, settled(own)), log_lines(own)[lines_before:]
        assert delta.reasons() == Counter(line["finish"] for line in lines)
        assert delta.of(table.ERRORS, code="UNAVAILABLE") == delta.of(table.REQUESTS, finished_reason="error")
        died = [line for line in lines if line["id"].startswith("dies-")]
        assert [(line["finish"], line["error"]) for line in died] == [("error", "UNAVAILABLE")] * streams
        wait_until(lambda: scrape(own).total(table.KV_USAGE.name) == 0, TOLD_WITHIN_S)


def small_line_spec() -> ModelSpec:
    """One row at a time in the engine, one in the line."""
    spec = echo_spec(ttft_ms=20, itl_ms=20, max_batch_size=1).model_dump(mode="json")
    spec["serving"] |= {"max_queue_size": 1}
    return parse_spec(json.dumps(spec), "small_line_spec")


@pytest.fixture(scope="module")
def small_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a model, whose line is full when one waits."""
    base = tmp_path_factory.mktemp("small-line")
    write_echo_release(base / "repository", small_line_spec(), base / "scratch")
    with running_server(base / "repository", base / "run") as server:
        yield server


def test_another_load_of_a_release_has_series_of_its_own(small_line: Server) -> None:
    """And those of the one that it replaces are gone. First of its server: the old one ends with its last request."""

    def processes() -> set[str]:
        return {s.labels["pid"] for s in scrape(small_line).samples if s.name == table.RUNNING.name}

    settled(small_line)
    (first,) = processes()
    reload(small_line, ENGINE.name)
    wait_until(lambda: len(processes()) == 1 and processes() != {first}, 30)
    before = settled(small_line)
    fields = {"input_ids": np.array([[1, 2, 3]], np.int32), "input_lengths": 3, "request_output_len": 5}
    assert not ask(small_line, ENGINE.name, fields).error
    delta = counted(small_line, before, 1)
    assert delta.of(table.OUTPUT_TOKENS) == 5
    assert first not in {s.labels.get("pid") for s in scrape(small_line).samples}


def reload(server: Server, model: str) -> None:
    """Make Triton load a model's version again, as it does when a file of it is touched."""
    from conch.server.probe import ADMIN_HEADER

    os.utime(version_folder(server, model) / "model.py")
    key = server.run_dir.admin_key_file.read_text().strip()
    url = f"http://{server.host}:{server.http_port}/v2/repository/models/{model}/load"
    request = urllib.request.Request(url, data=b"{}", headers={ADMIN_HEADER: key})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def test_the_log_has_one_line_for_each_request(small_line: Server) -> None:
    before, lines_before = settled(small_line), len(log_lines(small_line))
    evil = 'x\nllama_engine INFO request id=forged finish="stop"\x1b[2J\u2028'
    with grpc_stub(small_line) as stub:

        def begin(name: str, **fields: Any) -> Any:
            arrays = arrays_of({"text_input": "a secret of mine", "max_tokens": 4, "stream": True, **fields})
            return stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays, name)]), timeout=TIMEOUT_S)

        gone = begin("gone", max_tokens=400)
        next(gone)
        waits = begin("waits")
        wait_until(lambda: scrape(small_line).total(table.WAITING.name) == 1, TOLD_WITHIN_S)
        full = read(begin("full"))
        assert "maximum queue size" in full.error
        gone.cancel()
        assert read(waits).finish_reason == "length"
        assert "DEADLINE_EXCEEDED: " in read(begin("late", max_tokens=400, timeout_ms=200)).error
        assert read(begin(evil)).finish_reason == "length"
        assert "INVALID_ARGUMENT: " in read(begin("refused", top_p=3.0)).error
    assert generate(small_line, ENSEMBLE.name, {"text_input": "a secret of mine", "max_tokens": 2}).status == 200
    delta = counted(small_line, before, 6)
    assert delta.reasons() == {"length": 3, "cancelled": 1, "error": 2}
    new = log_lines(small_line)[lines_before:]
    lines = {line["id"]: line for line in new}
    assert len(lines) == len(new) == 6
    ends = {name: (line["finish"], line.get("error")) for name, line in lines.items() if not name.startswith("#")}
    assert ends == {
        "gone": ("cancelled", None), "waits": ("length", None), "full": ("error", "UNAVAILABLE"),
        "late": ("error", "DEADLINE_EXCEEDED"), json.dumps(evil): ("length", None),
    }  # fmt: skip
    assert sum(int(line["output_tokens"]) for name, line in lines.items() if name in ("waits", json.dumps(evil))) == 8
    assert float(lines["waits"]["queue_ms"]) > 0
    assert "secret" not in small_line.run_dir.triton_log.read_text(errors="replace")
