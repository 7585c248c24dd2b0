"""Locust's web page with the token metrics, as its buttons use it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from conch_load.analysis import read_summary
from conch_load.calibrate.faults import Behaviour
from conch_load.calibrate.letters import write_letters_tokenizer
from conch_load.calibrate.table import running_stub
from conch_load.records import read_run
from conch_load.run import LOCUSTFILE
from server_processes import free_ports, wait_until


def get(url: str) -> bytes:
    with urlopen(url, timeout=20) as answer:
        body: bytes = answer.read()
        return body


def is_there(url: str) -> bool:
    try:
        get(url)
    except (URLError, OSError):
        return False
    return True


@contextmanager
def page(*flags: str) -> Iterator[str]:
    """Locust with its page, ended at the end; gives its address."""
    (port,) = free_ports(1)
    line = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--web-host", "127.0.0.1", "--web-port", str(port)]
    with subprocess.Popen([*line, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_there(f"{url}/tokens"), 60)
            yield url
        finally:
            child.terminate()


def swarm(url: str, **fields: Any) -> None:
    form = urlencode({"user_count": 3, "spawn_rate": 3, **fields}).encode()
    with urlopen(f"{url}/swarm", data=form, timeout=20) as answer:
        assert json.load(answer)["success"]


def state(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(f"{url}/tokens/data"))
    return found


def test_a_test_from_the_page_is_shown_live_and_reported_and_may_be_refused(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    write_letters_tokenizer(tokenizer)
    with running_stub(Behaviour(ttft_ms=20, itl_ms=5)) as stub, page(
        "--target", stub.target("triton-grpc"), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "runs"),
        "--warm-up-s", "0.5", "--check-answers", "1", "--max-loop-lag-ms", "2000",
    ) as url:  # fmt: skip
        assert state(url)["state"] == "waiting"
        with pytest.raises(HTTPError, match="404"):
            get(f"{url}/tokens/report")
        swarm(url, model="nope", duration_s="2")
        wait_until(lambda: state(url)["state"] == "refused", 30)
        assert "nope" in state(url)["title"]
        wait_until(lambda: json.loads(get(f"{url}/stats/requests"))["state"] == "stopped", 30)
        swarm(url, model="ensemble", duration_s="2", output_tokens="8")
        wait_until(lambda: state(url)["state"].startswith("finished"), 60)
        shown = state(url)
        rows = json.loads(get(f"{url}/stats/requests"))
        assert b"<html" in get(f"{url}/tokens/report")[:500]
    assert shown["state"] == "finished"
    assert shown["requests"] == len(Path(shown["folder"], "requests.jsonl").read_text().splitlines())
    assert shown["output_tokens"] == 8 * shown["requests"]
    assert shown["points"][-1]["ttft_ms"]["p50"] > 20
    assert rows["stats"][-1]["num_requests"] == shown["requests"]  # one event a generation
    assert [row["metric"] for row in rows["extended_stats"][0]["data"]][:2] == ["TTFT, ms", "TPOT, ms"]
    assert read_summary(Path(shown["folder"])).server is not None  # the server was watched
    info = read_run(Path(shown["folder"]))
    assert (info.arrivals["users"], info.duration_s, info.invalid) == (3, 2.0, ())


def test_plain_locust_without_its_page_makes_a_report_and_exits_as_load_test_does(tmp_path: Path) -> None:
    write_letters_tokenizer(tmp_path / "tokenizer.json")
    out = tmp_path / "run"
    with running_stub(Behaviour(ttft_ms=5, itl_ms=1, miscount_every=10)) as stub:
        flags = {
            "target": stub.target("triton-grpc"), "tokenizer": tmp_path / "tokenizer.json", "out": out, "users": 2,
            "warm-up-s": 0.2, "duration-s": 1, "check-answers": 0, "max-loop-lag-ms": 2000, "output-tokens": 8,
        }  # fmt: skip
        line = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"]
        line += [f"--{name}={value}" for name, value in flags.items()]
        first = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        again = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert first.returncode == 4, first.stderr
    summary = read_summary(out)
    assert "answers of a forced length" in summary.invalid[0]
    assert f"INVALID: {summary.invalid[0]}" in first.stdout
    assert summary.server is not None
    assert again.returncode == 3
    assert f"out must be a new or an empty folder, got {out}" in again.stderr
    assert read_summary(out) == summary
