"""The log's line for each request: what it says, and what no client can make it say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from triton_side import Rows, Stages

from conch.errors import Code, DeadlineExceededError
from conch.spec import LogFormat
from conch.text.token_bytes import TokenBytes
from conch.triton.answers import Answer, Call, Row
from conch.triton.request_log import MAX_ID_CHARS, MAX_TEXT_CHARS, RequestLog
from conch.triton.tally import CallRecord, RowRecord

MS = 1_000_000
START = 1_795_480_000_000_000_000
TABLE = TokenBytes((b"zero", b" one", b"\xe2\x82", b"\xac\n", b""), strip_first=False)


class Params:
    """What the log reads of a row's controls."""

    stream = True


def record(client_id: str = "", reason: str = "length", code: Code | None = None, **row: Any) -> CallRecord:
    """A request of one row: 10 tokens in, 5 out, 1 ms in the line, 20 ms to the first token, 40 ms for the rest."""
    times = {
        "arrival_ns": START, "scheduled_ns": START + MS, "first_token_ns": START + 21 * MS,
        "last_token_ns": START + 61 * MS,
    }  # fmt: skip
    answer = Answer(None, None, ended=reason)  # type: ignore[arg-type]
    made = Row(17, Params(), 10, [answer], **{**times, **row})  # type: ignore[arg-type]
    call = Call(None, [made], client_id)  # type: ignore[arg-type]
    done = RowRecord(made, output_tokens=5 if made.first_token_ns else 0, answers=[[0, 1, 2, 3]], ended=reason)
    return CallRecord(call, [done], code, START + 100 * MS)


def lines(log_format: LogFormat, *records: CallRecord, table: TokenBytes | None = None) -> list[str]:
    written: list[str] = []
    RequestLog("small", 3, log_format, table, written.append).write(records)
    assert len(written) <= 1  # lines of one look are written together
    return "".join(written).split("\n")[:-1]


def test_a_text_line() -> None:
    (line,) = lines(LogFormat.TEXT, record("abc-1"))
    assert line == (
        "2026-11-24T00:26:40.100Z llama_engine INFO request id=abc-1 model=small version=3 rows=1 stream=true "
        "prompt_tokens=10 output_tokens=5 finish=length queue_ms=1.0 ttft_ms=21.0 itl_ms=10.0 total_ms=100.0 "
        "tokens_per_s=50.0"
    )


def test_a_json_line() -> None:
    (line,) = lines(LogFormat.JSON, record("abc-1"))
    assert json.loads(line) == {
        "time": "2026-11-24T00:26:40.100Z", "event": "request", "id": "abc-1", "model": "small", "version": 3,
        "rows": 1, "stream": True, "prompt_tokens": 10, "output_tokens": 5, "finish": "length", "queue_ms": 1.0,
        "ttft_ms": 21.0, "itl_ms": 10.0, "total_ms": 100.0, "tokens_per_s": 50.0,
    }  # fmt: skip


def test_what_is_not_known_is_left_out() -> None:
    never = {"scheduled_ns": 0, "first_token_ns": 0, "last_token_ns": 0}
    (line,) = lines(LogFormat.TEXT, record(reason="error", code=DeadlineExceededError.code, **never))
    assert line.endswith("output_tokens=0 finish=error error=DEADLINE_EXCEEDED total_ms=100.0")


def test_without_an_id_the_engine_s_number_which_no_client_can_take() -> None:
    ours, theirs = lines(LogFormat.TEXT, record(), record("#17"))
    assert " id=#17 " in ours
    assert ' id="#17" ' in theirs
    ours, theirs = lines(LogFormat.JSON, record(), record("17"))
    assert (json.loads(ours)["id"], json.loads(theirs)["id"]) == (17, "17")


@pytest.mark.parametrize("log_format", [LogFormat.TEXT, LogFormat.JSON])
@pytest.mark.parametrize(
    "evil",
    ["a\nINFO request id=b", "a\r\n", "\x1b[2J", "a\u2028b", "\u202eabc", "\x00", 'a" finish=stop', "a b=c", "\ud800"],
)
def test_an_id_cannot_forge_a_line(evil: str, log_format: LogFormat) -> None:
    (line,) = lines(log_format, record(evil))
    assert len(line.splitlines()) == 1
    assert re.fullmatch(r"[ -~]*", line)
    if log_format is LogFormat.JSON:
        assert json.loads(line)["id"] == evil
    else:
        quoted = re.search(r' id=("(?:[^"\\]|\\.)*") model=small ', line)
        assert quoted is not None
        assert json.loads(quoted[1]) == evil


def test_a_long_id_is_cut() -> None:
    (line,) = lines(LogFormat.JSON, record("x" * 100_000))
    assert json.loads(line)["id"] == "x" * MAX_ID_CHARS


def test_prompts_and_answers_if_they_are_wanted() -> None:
    (line,) = lines(LogFormat.JSON, record(prompt_ids=[0, 4, 1]), table=TABLE)
    assert json.loads(line)["prompts"] == ["zero one"]
    assert json.loads(line)["answers"] == ["zero one€\n"]
    (line,) = lines(LogFormat.TEXT, record(prompt_ids=[0] * 1000), table=TABLE)
    assert json.dumps(["zero" * (MAX_TEXT_CHARS // 4)]) in line


def test_off_writes_nothing() -> None:
    assert lines(LogFormat.OFF, record()) == []


def logged(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


def test_the_stage_writes_one_line_for_each_request(
    make_stages: Callable[..., Stages], capfd: pytest.CaptureFixture[str]
) -> None:
    stages = make_stages(serving={"log_format": "json", "log_prompts": True})
    values = {"input_ids": Rows([[5, 6], [7, 8]]), "input_lengths": Rows([2, 1]), "request_output_len": Rows([3, 4])}
    stages.generate(values)
    stages.generate({"input_ids": [9], "input_lengths": 1, "request_output_len": 2, "streaming": True})
    stages.close()  # nothing is lost
    both, one = logged(capfd.readouterr().err)
    assert (both["rows"], both["prompt_tokens"], both["output_tokens"], both["stream"]) == (2, 3, 7, False)
    assert [len(both["prompts"]), len(both["answers"])] == [2, 2]
    assert (one["rows"], one["output_tokens"], one["stream"]) == (1, 2, True)
    assert one["answers"] == [2 * one["prompts"][0]]


def test_no_text_by_default(make_stages: Callable[..., Stages], capfd: pytest.CaptureFixture[str]) -> None:
    stages = make_stages(serving={"log_format": "json"})
    stages.ask(text_input="secret words", max_tokens=30)
    stages.close()
    (line,) = logged(capfd.readouterr().err)
    assert set(line) == {
        "time", "event", "id", "model", "version", "rows", "stream", "prompt_tokens", "output_tokens", "finish",
        "queue_ms", "ttft_ms", "itl_ms", "total_ms", "tokens_per_s",
    }  # fmt: skip
    assert "secret" not in json.dumps(line)
