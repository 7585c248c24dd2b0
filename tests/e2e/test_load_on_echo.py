"""The load generator against a real tritonserver with the engine that plays prompts back: counts, texts, fronts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conch_load.config import checked
from conch_load.records import RequestRecord, RunInfo, read_requests
from conch_load.run import RunError, run
from conch_load.workloads import WorkloadError

if TYPE_CHECKING:
    from server_processes import Server

pytestmark = pytest.mark.e2e


def made(server: Server, folder: Path, front: str, **fields: Any) -> tuple[RunInfo, dict[int, RequestRecord]]:
    """A short run; the records by their index. Lag of a busy machine is no fault here. All have the same salt."""
    port = server.grpc_port if front == "triton-grpc" else server.http_port
    values: dict[str, Any] = {
        "front": front, "target": f"{server.host}:{port}", "repository": server.repository, "duration_s": 1,
        "warm_up_s": 0.3, "salt": "e2e", "arrivals": {"kind": "constant", "rate_per_s": 15}, "check_answers": 2,
        "workload": {"kind": "distribution", "input_tokens": "uniform:8:40", "output_tokens": "uniform:2:20"},
        "max_loop_lag_ms": 5000, "max_late_share": 1, "max_cpu_share": 1,
    }  # fmt: skip
    info = run(checked({**values, **fields}), folder)
    return info, {record.index: record for record in read_requests(folder)}


def test_every_front_asks_the_same_and_counts_what_the_engine_counts(
    make_server: Callable[[str], Server], tmp_path: Path
) -> None:
    echo = make_server("echo")
    found = {}
    for front in ("triton-grpc", "triton-http-stream", "triton-http"):
        info, records = made(echo, tmp_path / front, front)
        assert info.invalid == ()
        assert sorted(records) == list(range(19))
        for one in records.values():
            assert (one.error_code, one.server_prompt_tokens) == (None, one.prompt_tokens)
            assert one.server_output_tokens == one.requested_tokens
            assert front == "triton-http" or sum(one.chunk_tokens) == one.requested_tokens
        assert info.checks["counts"]["ids_compared"] == 2
        assert info.checks["answers"]["same_share"] == 1
        found[front] = {index: (one.text, one.intended_ns, one.requested_tokens) for index, one in records.items()}
    assert found["triton-grpc"] == found["triton-http-stream"] == found["triton-http"]
    assert len({text for text, _, _ in found["triton-grpc"].values()}) > 10


def test_chats_are_counted_with_the_models_template(make_server: Callable[[str], Server], tmp_path: Path) -> None:
    workload = {"kind": "chat", "turns": 3, "system_tokens": 30, "input_tokens": "8", "output_tokens": "4"}
    info, records = made(
        make_server("echo"), tmp_path, "triton-grpc", workload=workload, arrivals={"kind": "closed", "users": 2}
    )
    assert info.invalid == ()
    assert info.workload["exact_prompt_tokens"]
    by_turn = {(one.conversation, one.turn): one for one in records.values()}
    assert all(one.server_prompt_tokens == one.prompt_tokens for one in records.values())
    assert by_turn[0, 2].prompt_tokens > by_turn[0, 1].prompt_tokens > by_turn[0, 0].prompt_tokens > 38


def test_long_prompts_of_many_users_pass_the_servers_window(
    make_server: Callable[[str], Server], tmp_path: Path
) -> None:
    """More than the 64 KiB that HTTP/2 lets a client send unasked."""
    workload = {"input_tokens": "3000", "output_tokens": "2"}
    info, records = made(
        make_server("echo"), tmp_path, "triton-grpc", workload=workload, arrivals={"kind": "closed", "users": 24}
    )
    assert info.invalid == ()
    assert {one.error_code for one in records.values()} == {None}


def test_what_the_server_does_not_have_is_said(make_server: Callable[[str], Server], tmp_path: Path) -> None:
    echo = make_server("echo")
    with pytest.raises(RunError, match=r"model nope at .* is not ready|unknown model: 'nope'"):
        made(echo, tmp_path, "triton-grpc", model="nope")
    with pytest.raises(RunError, match=r"model nope at .* is not ready: HTTP status 400"):
        made(echo, tmp_path, "triton-http-stream", model="nope")
    with pytest.raises(WorkloadError, match=r"8000 \+ 500 = 8500 tokens, the model's context has 8192"):
        made(echo, tmp_path, "triton-grpc", workload={"input_tokens": "8000", "output_tokens": "500"})
