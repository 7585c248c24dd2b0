"""The server's side of a real Triton over a window of known requests: the engine without a model, at a set pace."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conch_load.records import RunInfo, write_run
from conch_load.server_side import Sources, Watch, summarize
from conch_load.server_side.scrape import metrics
from server_processes import Server, echo_spec, running_server, wait_until, write_echo_release
from triton_calls import TIMEOUT_S, ask

from conch import metric_table as table

pytestmark = pytest.mark.e2e

REQUESTS, TOKENS, TTFT_MS, ITL_MS = 6, 5, 60, 20
FIELDS = {"text_input": "hello", "max_tokens": TOKENS, "end_id": -1, "stream": True}


def test_every_request_of_the_window_and_none_before_it_is_in_the_summary(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_echo_release(repository, echo_spec(ttft_ms=TTFT_MS, itl_ms=ITL_MS), tmp_path / "scratch")
    with running_server(repository, tmp_path / "run") as server:
        before = [ask(server, "ensemble", FIELDS) for _ in range(2)]
        assert not any(reply.error for reply in before)
        time.sleep(1.5)  # the engine tells its counters every second
        told = watched(server, tmp_path)
    assert told["resets"] == []
    assert told["engine"] == "conch"
    assert told["counters"]["output_tokens"] == REQUESTS * TOKENS
    assert told["counters"]["prompt_tokens"] == REQUESTS * len("hello")
    times = told["times"]
    assert times["prefill_ms"]["count"] == times["decode_ms"]["count"] == REQUESTS
    assert times["prefill_ms"]["mean"] >= TTFT_MS * 0.99
    assert times["decode_ms"]["mean"] >= ITL_MS * (TOKENS - 1) * 0.99
    assert times["inter_token_ms"]["count"] == REQUESTS * (TOKENS - 1)
    models = {one["model"]: one for one in told["models"]}
    assert next(iter(models)) == "ensemble"
    assert {"tokenizer", "llama_engine", "detokenizer"} <= set(models)
    assert models["ensemble"]["calls"] == models["tokenizer"]["calls"] == models["llama_engine"]["calls"] == REQUESTS
    assert models["detokenizer"]["calls_per_generation"] == TOKENS
    assert models["ensemble"]["call_ms"] >= TTFT_MS + ITL_MS * (TOKENS - 1)
    # What Triton says of a decoupled model ends when execute returns: the engine's time is not in there.
    assert models["llama_engine"]["decoupled"] is True
    assert models["llama_engine"]["call_ms"] < TTFT_MS
    assert not any("statistics in" in one or "metrics in" in one for one in told["missing"])


def watched(server: Server, folder: Path) -> dict[str, Any]:
    page = f"http://{server.host}:{server.metrics_port}/metrics"
    sources = Sources(page, f"http://{server.host}:{server.http_port}", "ensemble")
    write_run(folder, RunInfo("n", time.time_ns(), "triton-grpc", "t", "ensemble", {}, {}, 1.0, 1, 1))

    def tokens() -> float:
        return sum(value for key, value in metrics(page).items() if key.startswith(table.OUTPUT_TOKENS.name))

    before = tokens()
    with Watch(folder, sources, interval_s=0.2), ThreadPoolExecutor(REQUESTS) as pool:
        replies = [pool.submit(ask, server, "ensemble", FIELDS) for _ in range(REQUESTS)]
        assert not any(reply.result(TIMEOUT_S).error for reply in replies)
        wait_until(lambda: tokens() - before == REQUESTS * TOKENS, 10)
    told = summarize(folder)
    assert told is not None
    return told
