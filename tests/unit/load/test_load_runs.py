"""The generator as it is, Locust and all, against a server of known times that has faults on purpose."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent
import psutil
import pytest
from conch_load.analysis import summarize
from conch_load.calibrate.faults import Behaviour
from conch_load.calibrate.letters import write_letters_tokenizer
from conch_load.calibrate.table import RunningStub, row_of, running_stub
from conch_load.cli import main
from conch_load.config import RunConfig, checked
from conch_load.folders import REPORTS, point_latest, stamped
from conch_load.records import RequestRecord, RunInfo, read_generator, read_requests, read_run
from conch_load.report import texts
from conch_load.run import RunError, run
from conch_load.users.places import Places
from server_processes import wait_until

FRONTS = ("triton-grpc", "triton-http-stream", "triton-http", "openai")
TRACES = Path(__file__).resolve().parents[3] / "load_tests" / "traces"
STREAMED = ("triton-grpc", "triton-http-stream", "openai")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    write_letters_tokenizer(file)
    return file


@pytest.fixture(scope="module")
def stub() -> Iterator[RunningStub]:
    """30 ms to the first token, 5 ms between tokens, no faults."""
    with running_stub(Behaviour(ttft_ms=30, itl_ms=5)) as running:
        yield running


def config(stub: RunningStub, tokenizer: Path, front: str = "triton-grpc", **fields: Any) -> RunConfig:
    """A short run: lag of a busy machine is no fault here."""
    values: dict[str, Any] = {
        "front": front, "target": stub.target(front), "tokenizer": tokenizer, "duration_s": 0.8, "warm_up_s": 0.2,
        "arrivals": {"kind": "closed", "users": 4}, "workload": {"input_tokens": "20", "output_tokens": "10"},
        "check_answers": 2, "max_loop_lag_ms": 2000, "max_late_share": 1.0, "max_cpu_share": 1.0,
    }  # fmt: skip
    return checked({**values, **fields})


def made(settings: RunConfig, folder: Path) -> tuple[RunInfo, list[RequestRecord]]:
    info = run(settings, folder)
    return info, list(read_requests(folder))


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_notes_down_what_the_server_did(
    stub: RunningStub, tokenizer: Path, tmp_path: Path, front: str
) -> None:
    info, records = made(config(stub, tokenizer, front), tmp_path)
    assert info.invalid == ()
    assert info.ended_ns is not None
    assert len(records) > 8
    stamps = stub.stamps()
    for one in records:
        assert (one.error_code, one.finish_reason, one.prompt_tokens) == (None, "length", 20)
        assert (one.server_prompt_tokens, one.server_output_tokens, one.local_output_tokens) == (20, 10, 10)
        assert one.text == "abcdefghij"
        assert len(one.chunk_ns) == (1 if front == "triton-http" else 10)
        assert list(one.chunk_ns) == sorted(one.chunk_ns)
        assert one.final_ns is not None
        assert one.final_ns >= one.chunk_ns[-1]
        sent = stamps[one.request_id]
        assert one.chunk_ns[0] - one.sent_ns >= sent["sent_ns"][0] - sent["arrived_ns"]  # never faster than it was
    assert info.checks["answers"]["same"] == info.checks["answers"]["asked"] == 2
    assert info.checks["answers"]["ids_checked"] == (0 if front == "openai" else 2)
    assert list(read_generator(tmp_path))
    row = row_of(info, records, stamps, 4, 0.8)
    assert row.requests == sum(not one.warm_up for one in records)
    assert 0 < row.streams_per_s * 0.8 <= len(records)


def test_two_workers_send_the_schedule_of_one_and_each_request_once(
    stub: RunningStub, tokenizer: Path, tmp_path: Path
) -> None:
    arrivals = {"kind": "gamma", "rate_per_s": 40}
    found = []
    for workers in (1, 2):
        settings = config(stub, tokenizer, arrivals=arrivals, workers=workers, check_answers=0)
        info, records = made(settings, tmp_path / str(workers))
        assert info.invalid == ()
        assert {r.worker for r in records} == set(range(workers))
        found.append({r.index: (r.intended_ns, r.prompt_tokens) for r in records})
        assert len(found[-1]) == len(records) == info.checks["requests"]["due"]
        assert all(r.intended_ns is not None and r.sent_ns >= r.intended_ns for r in records)
    assert found[0] == found[1]


@pytest.mark.parametrize("front", STREAMED)
def test_refusals_and_cut_streams_are_told_apart(tokenizer: Path, tmp_path: Path, front: str) -> None:
    with running_stub(Behaviour(ttft_ms=5, itl_ms=1, fail_every=10, cut_every=7)) as faulty:
        info, records = made(config(faulty, tokenizer, front, check_answers=0), tmp_path)
    codes = Counter(r.error_code for r in records)
    assert info.invalid == ()
    refused = codes["UNAVAILABLE" if front == "triton-grpc" else "503"]
    assert refused == pytest.approx(len(records) / 10, abs=2)
    # Every 7th is cut, but for those that are refused.
    assert codes["cut"] == pytest.approx(len(records) * (1 / 7 - 1 / 70), abs=3)
    assert refused + codes["cut"] + codes[None] == len(records)
    for one in records:
        assert one.final_ns is not None
        if one.error_code == "cut":
            assert 0 < len(one.chunk_ns) < 10
    shown = info.checks["requests"]
    assert shown["succeeded"] + sum(shown["errors"].values()) == shown["measured"]


@pytest.mark.parametrize("front", ["triton-grpc", "openai"])
def test_wrong_counts_fail_the_run(tokenizer: Path, tmp_path: Path, front: str) -> None:
    with running_stub(Behaviour(ttft_ms=5, itl_ms=1, miscount_every=10)) as faulty:
        target = faulty.target(front)
        code = main([
            "run", "--front", front, "--target", target, "--tokenizer", str(tokenizer), "--duration-s", "1", "--users",
            "2", "--warm-up-s", "0.2", "--output-tokens", "10", "--check-answers", "0", "--out", str(tmp_path),
            "--max-loop-lag-ms", "2000",
        ])  # fmt: skip
    assert code == 4
    (reason,) = read_run(tmp_path).invalid
    assert "answers of a forced length are not the tokenizer's" in reason
    assert "has 10, the server says 11" in reason


def test_a_server_that_is_too_slow_leaves_unfinished_requests_and_loses_none(tokenizer: Path, tmp_path: Path) -> None:
    with running_stub(Behaviour(ttft_ms=5, itl_ms=1, stall_at_s=0.4, stall_s=600)) as stalled:
        settings = config(
            stalled, tokenizer, arrivals={"kind": "constant", "rate_per_s": 40}, grace_s=0.3, check_answers=0
        )
        info, records = made(settings, tmp_path)
    unfinished = [r for r in records if r.final_ns is None]
    assert len(records) == info.checks["requests"]["due"] == 39
    assert unfinished
    assert all(r.error_code is None and r.text is not None for r in unfinished)
    assert info.checks["requests"]["errors"]["unfinished"] == sum(not r.warm_up for r in unfinished)


@pytest.mark.parametrize(("front", "most"), [("triton-http-stream", 3), ("triton-grpc", None)])
def test_a_stall_shows_from_when_due_and_raw_says_how_much_a_client_with_few_connections_hides(
    tokenizer: Path, tmp_path: Path, front: str, most: int | None
) -> None:
    """The server stands still for 2 s under 150 requests a second."""
    with running_stub(Behaviour(ttft_ms=5, itl_ms=1, stall_at_s=0.6, stall_s=2)) as stalled:
        arrivals = {"kind": "constant", "rate_per_s": 150, "max_connections": most}
        settings = config(stalled, tokenizer, front, arrivals=arrivals, duration_s=4, check_answers=0,
                          workload={"input_tokens": "20", "output_tokens": "4"})  # fmt: skip
        info, records = made(settings, tmp_path)
    assert info.invalid == ()
    assert {one.error_code for one in records} == {None}
    assert len(records) == info.checks["requests"]["due"]
    summary = summarize(tmp_path, "none")
    due, sent = (summary.percentile(name, 99) for name in ("ttft_corrected_ms", "ttft_ms"))
    assert due is not None
    assert sent is not None
    assert due.value is not None
    assert sent.value is not None
    assert due.value > 1800
    said = [text for text in texts.omission(summary) if text.startswith(("p99 of TTFT", "TTFT"))]
    if most is None:
        assert sent.value == pytest.approx(due.value, abs=100)
        return
    assert sent.value < 200
    assert f"p99 of TTFT is {texts.number(due.value)} ms from when due and {texts.number(sent.value)} ms" in said[0]
    moments = sorted([(one.sent_ns, 1) for one in records] + [(one.final_ns or 0, -1) for one in records])
    assert max(itertools.accumulate(step for _, step in moments)) == most


@pytest.mark.parametrize(("workers", "said"), [(2, "worker [01] was lost by"), (1, "Locust ended before the run did")])
def test_what_a_killed_generator_had_measured_is_reported_as_invalid(
    stub: RunningStub, tokenizer: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int, said: str
) -> None:
    flags = {"target": stub.target("triton-grpc"), "tokenizer": tokenizer, "duration-s": 3, "warm-up-s": 0.2,
             "output-tokens": 10, "rate": 40, "check-answers": 1, "workers": workers, "out": tmp_path}  # fmt: skip
    line = ["run", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(main, line)
        requests = tmp_path / "requests.jsonl"
        wait_until(lambda: code.done() or (requests.is_file() and requests.stat().st_size > 0), 30)
        locusts = [one for one in psutil.Process().children(recursive=True) if "locust" in one.cmdline()]
        assert len(locusts) == (3 if workers == 2 else 1)
        locusts[-1].kill()
        assert code.result(timeout=60) == 4
    info = read_run(tmp_path)
    assert info.ended_ns is not None
    assert re.match(said, info.invalid[0])
    records = list(read_requests(tmp_path))
    assert info.checks["requests"]["sent"] == len(records) > 0
    if workers == 2:  # the other went on to the end
        assert max(one.sent_ns for one in records) > 3 * 10**9
    assert "INVALID: " + info.invalid[0] in capfd.readouterr().out


def test_who_waits_for_a_place_gets_one_in_the_order_of_coming() -> None:
    places, served = Places(2), []

    def come(name: int) -> None:
        with places:
            served.append(name)
            gevent.sleep(0)

    greenlets = [gevent.spawn(come, name) for name in range(20)]
    gevent.sleep(0)
    greenlets[5].kill()
    greenlets.append(gevent.spawn(come, 20))
    gevent.joinall(greenlets)
    assert served == [name for name in range(21) if name != 5]
    with places, places:  # none was lost
        pass


@pytest.mark.parametrize("front", ["triton-grpc", "triton-http-stream"])
def test_a_request_that_takes_too_long_is_a_timeout_though_tokens_come(
    tokenizer: Path, tmp_path: Path, front: str
) -> None:
    with running_stub(Behaviour(ttft_ms=20, itl_ms=150)) as slow:
        info, records = made(config(slow, tokenizer, front, timeout_s=0.5, check_answers=0), tmp_path)
    assert {r.error_code for r in records} == {"timeout"}
    assert {len(r.chunk_ns) > 1 for r in records} == {True}
    assert info.invalid == ("no request of the measured part succeeded",)


def seconds_of(trace: Path) -> list[float]:
    """When its requests that did not fail were sent."""
    lines = trace.read_text().splitlines()
    if trace.suffix == ".jsonl":
        return [json.loads(line)["timestamp"] / 1e3 for line in lines]
    rows = [line.split(",") for line in lines[1:]]
    return [float(row[0]) for row in rows if int(row[3])]


@pytest.mark.parametrize(
    ("workload", "arrivals"),
    [
        ({"kind": "prompts"}, {"kind": "steps", "steps": [(20, 0.5), (60, 1)]}),
        ({"kind": "mooncake", "path": TRACES / "mooncake_synthetic.jsonl"}, {"kind": "trace", "speed": 10}),
        ({"kind": "burstgpt", "path": TRACES / "burstgpt_synthetic.csv"}, {"kind": "trace", "speed": 10}),
    ],
)
def test_files_and_traces_are_sent_as_they_say(
    stub: RunningStub, tokenizer: Path, tmp_path: Path, workload: dict[str, Any], arrivals: dict[str, Any]
) -> None:
    if workload["kind"] == "prompts":
        workload = {**workload, "path": tmp_path / "prompts.txt", "output_tokens": "3"}
        workload["path"].write_text("one\ntwo and three\n")
    settings = config(stub, tokenizer, workload=workload, arrivals=arrivals, check_answers=1)
    info, records = made(settings, tmp_path / "run")
    assert info.invalid == ()
    assert len(records) == info.checks["requests"]["due"] > 0
    assert {(one.error_code, one.server_output_tokens == one.requested_tokens) for one in records} == {(None, True)}
    assert all(one.server_prompt_tokens == one.prompt_tokens for one in records)
    if workload["kind"] == "prompts":
        assert {one.prompt_tokens for one in records} == {len("abcde\n") + len(one) for one in ("one", "two and three")}
        return
    entries = info.workload["entries"]
    warnings = summarize(tmp_path / "run").warnings
    times_s = seconds_of(workload["path"])
    sent = sum((at - times_s[0]) / 10 < 1 for at in times_s)  # of warm-up and duration
    assert 0 < len(records) == sent < len(times_s) == entries
    assert info.workload["left_out_after_end"] == entries - sent
    assert any(f"{entries - sent} of its {entries} requests were not sent" in line for line in warnings)


def test_a_role_chunk_is_no_token(stub: RunningStub, tokenizer: Path, tmp_path: Path) -> None:
    workload = {"kind": "chat", "turns": 2, "system_tokens": 5, "input_tokens": "4", "output_tokens": "6"}
    info, records = made(config(stub, tokenizer, "openai", workload=workload, check_answers=0), tmp_path)
    assert info.invalid == ()
    for one in records:
        assert len(one.chunk_ns) == 6
        assert one.chunk_ns[0] - one.sent_ns > 29 * 10**6
    turns = {(r.conversation, r.turn): r for r in records}
    assert all((one, 0) in turns for one, turn in turns if turn == 1)


def test_what_cannot_be_run_is_said_in_a_line(
    stub: RunningStub, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for front in ("triton-grpc", "openai"):
        with pytest.raises(RunError, match=r"cannot reach 127\.0\.0\.1:1: "):
            run(config(stub, tokenizer, front, target="127.0.0.1:1"), tmp_path)
        with pytest.raises(RunError, match="nope"):
            run(config(stub, tokenizer, front, model="nope"), tmp_path)
    flags = ["run", "--target", stub.target("triton-grpc"), "--tokenizer", str(tokenizer), "--out", str(tmp_path)]
    assert main([*flags, "--context-tokens", "100"]) == 3
    assert main([*flags, "--users", "4", "--rate", "2"]) == 2
    assert main([*flags, "--slo", "latency_p99_ms=500"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("needs 64 + 64 = 128 tokens, the model's context has 100")
    assert said[1] == "error: arrivals: users has no meaning for poisson arrivals, got 4"
    assert said[2].startswith("error: slo_ms: 'latency_p99_ms' is no limit; it must be METRIC_pNN_ms or METRIC_ms")
    assert len(said) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_run_takes_no_other_runs_place(
    stub: RunningStub, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "run.json").write_text("{}")
    flags = ["run", "--target", stub.target("triton-grpc"), "--tokenizer", str(tokenizer)]
    assert main([*flags, "--out", str(earlier)]) == 2
    assert capsys.readouterr().err == f"error: out must be a new or an empty folder, got {earlier}\n"
    assert [(one.name, one.read_text()) for one in earlier.iterdir()] == [("run.json", "{}")]
    monkeypatch.chdir(tmp_path)
    first = stamped("a")
    first.mkdir(parents=True)
    assert stamped("a") != first
    point_latest(first)
    assert (REPORTS / "latest").resolve() == first.resolve()
