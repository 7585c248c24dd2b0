"""summary.json against its schema, and the pages that people read."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from conch_load.analysis.definitions import DEFINITIONS
from conch_load.analysis.schema_file import text as schema_text
from conch_load.analysis.summarize import summarize
from conch_load.analysis.summary import SCHEMA_FILE, read_summary
from conch_load.records import RequestRecord, RunInfo
from conch_load.report import __main__ as command
from conch_load.report import write
from conch_load.report.ladder import front_costs, rungs
from conch_load.report.scales import Axis, linear, logarithmic, short
from simulated_runs import RUN, closed_loop, open_loop, record, write_folder

CLOSED = dataclasses.replace(RUN, arrivals={"kind": "closed", "users": 4}, duration_s=30.0)


def failing() -> list[RequestRecord]:
    records = open_loop(20, 30)
    records[5] = dataclasses.replace(records[5], error_code="503", error="<b>over & over</b>", chunk_ns=())
    return records


RUNS: dict[str, tuple[list[RequestRecord], RunInfo]] = {
    "open loop": (open_loop(20, 30), RUN),
    "closed loop": (closed_loop(4, 30), CLOSED),
    "no limits": (open_loop(20, 30), dataclasses.replace(RUN, slo_ms={})),
    "not streamed": ([dataclasses.replace(one, front="triton-http", chunk_ns=one.chunk_ns[-1:], chunk_tokens=())
                      for one in open_loop(20, 30)], dataclasses.replace(RUN, front="triton-http")),
    "one request": ([record(0, 10, due_ms=0)], RUN),
    "one token": ([record(place, place * 100.0, tokens=1) for place in range(50)], CLOSED),
    "all failed": ([record(0, 10, due_ms=0, error_code="connection", error="refused", chunk_ns=())], RUN),
    "some failed": (failing(), RUN),
    "invalid": (open_loop(20, 30), dataclasses.replace(RUN, invalid=("the <generator> was the limit",))),
}  # fmt: skip


@pytest.fixture(params=RUNS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    records, run = RUNS[request.param]
    write_folder(tmp_path, records, run)
    summarize(tmp_path)
    write(tmp_path)
    return tmp_path


def test_the_schema_is_that_of_the_code() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "python -m conch_load.analysis.schema_file"
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


def test_every_summary_keeps_to_the_schema(folder: Path) -> None:
    values = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert not list(validator.iter_errors(values))
    assert read_summary(folder).model_dump(mode="json") == values
    assert values["metrics"].keys() | values["rates"].keys() <= DEFINITIONS.keys()
    values["extra"] = 1
    assert list(validator.iter_errors(values))


class Page(HTMLParser):
    """What a browser would fetch, and whether tags are closed."""

    EMPTY = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "srcset") and value]
        assert tag != "link"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(text) < 1_000_000
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(figure.replace("&nbsp;", " "))
        assert "nan" not in figure
    assert "None" not in re.sub(r"<pre>.*</pre>", "", text, flags=re.DOTALL)


def test_definitions_stand_beside_the_figures(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for one in DEFINITIONS.values():
        assert one.name in text
    assert all(tool in text for tool in ("aiperf", "genai-perf", "guidellm", "vLLM bench", "MLPerf"))


def test_an_invalid_run_says_so_first(tmp_path: Path) -> None:
    write_folder(tmp_path, *RUNS["invalid"])
    assert command.main([str(tmp_path)]) == 4
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.index("Invalid run: do not use these figures") < text.index("Tokens out a second")
    assert "the &lt;generator&gt; was the limit" in text
    assert "Invalid run" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_errors_are_shown_for_what_they_are(tmp_path: Path) -> None:
    write_folder(tmp_path, *RUNS["some failed"])
    assert command.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;over &amp; over&lt;/b&gt;" in text
    assert "failed: 503 1" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_no_percentile_is_printed_for_too_few_requests(tmp_path: Path) -> None:
    write_folder(tmp_path, open_loop(10, 20))
    command.main([str(tmp_path)])
    line = next(line for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines() if "| TPOT" in line)
    assert "needs 368 values" in line


def ladder_of(parent: Path, changes: dict[str, RunInfo]) -> None:
    for place, (name, run) in enumerate(changes.items()):
        records = closed_loop(4 * (place % 3 + 1), 30, seed=place)
        write_folder(parent / name, records, dataclasses.replace(run, name=name))


def users(count: int, front: str = "triton-grpc") -> RunInfo:
    return dataclasses.replace(CLOSED, arrivals={"kind": "closed", "users": count}, front=front)


def test_a_ladder(tmp_path: Path) -> None:
    ladder_of(tmp_path, {"a": users(4), "b": users(8), "c": users(12)})
    assert command.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    assert "TTFT against throughput" in text
    assert "Goodput" in text
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(figure)
    rows = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert [row.split(" | ")[1] for row in rows if " users |" in row] == ["4 users", "8 users", "12 users"]


def test_two_servers_of_one_front_are_no_repeats_and_an_invalid_run_costs_nothing(tmp_path: Path) -> None:
    one = dataclasses.replace(users(4), front="openai", target="http://one/v1")
    two = dataclasses.replace(one, target="http://two/v1")
    grpc = dataclasses.replace(users(4), front="triton-grpc")
    ladder_of(tmp_path / "same", {"a": one, "b": two})
    command.main([str(tmp_path / "same")])
    (cost,) = front_costs(rungs(tmp_path / "same"))
    assert cost[0] == "openai (ensemble at http://two/v1) beside openai (ensemble at http://one/v1), 4 users"
    ladder_of(tmp_path / "mixed", {"a": one, "b": dataclasses.replace(two, invalid=("stopped",)), "c": grpc})
    command.main([str(tmp_path / "mixed")])
    assert [cost[0] for cost in front_costs(rungs(tmp_path / "mixed"))] == ["openai beside triton-grpc, 4 users"]


def test_fronts_beside_each_other_have_their_cost(tmp_path: Path) -> None:
    fronts = {"one": users(4), "two": users(4, "triton-http-stream")}
    for name, run in fronts.items():
        records = closed_loop(4, 40, gap_ms=8 if name == "one" else 10)
        write_folder(tmp_path / name, [dataclasses.replace(one, front=run.front) for one in records],
                     dataclasses.replace(run, name=name, duration_s=40.0))  # fmt: skip
    assert command.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**triton-http-stream beside triton-grpc, 4 users**" in text
    row = next(line for line in text.splitlines() if line.startswith("| TPOT, p50"))
    assert "worse" in row


def test_repeats_of_two_fronts_are_compared_as_repeats(tmp_path: Path) -> None:
    for place in range(4):
        run = users(4, ("triton-grpc", "triton-http-stream")[place % 2])
        records = [dataclasses.replace(one, front=run.front) for one in closed_loop(4, 30, seed=place)]
        write_folder(tmp_path / str(place), records, dataclasses.replace(run, name=str(place)))
    assert command.main([str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| TPOT, p50"))
    assert "no difference shown" in row


def test_runs_that_do_not_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ladder_of(tmp_path, {"a": users(4), "b": dataclasses.replace(users(8), workload={"kind": "chat"})})
    assert command.main([str(tmp_path)]) == 2
    assert "different workloads" in capsys.readouterr().err


def test_axes() -> None:
    assert [text for _, text in Axis("", 0, 100).ticks()] == ["0", "20", "40", "60", "80", "100"]
    assert [text for _, text in Axis("", 1, 1000, "log").ticks(4)] == ["1", "10", "100", "1,000"]
    assert Axis("", 0.001, 0.999, "probit").place(0.5) == pytest.approx(0.5)
    assert linear("", [5.0, 5.0]).ticks()
    assert logarithmic("", [0.0]).ticks()
    assert [short(value) for value in (0.25, 12.0, 1500.0, 20_000.0, 3e6)] == ["0.25", "12", "1,500", "20k", "3M"]
