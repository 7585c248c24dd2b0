"""The server's side of a run: scraping over real HTTP, differences of counters, resets, and what is missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conch_load.records import SERVER_FILE, BadRecordError, RunInfo, write_run
from conch_load.server_side import Sources, Watch, sources_of, summarize
from conch_load.server_side.command import main
from conch_load.server_side.histogram import Bound, Histogram
from conch_load.server_side.idle import rows_under_way, wait_until_idle
from conch_load.server_side.names import METRICS
from conch_load.server_side.samples import growth, read, window
from conch_load.server_side.scrape import ScrapeError, get, metrics, parse, series, statistics, topology
from conch_load.server_side.watch import here

from conch import metric_table as table

SECOND = 1_000_000_000


def exposition(steps: int, pid: int = 7, **gauges: float) -> str:
    """What an engine says after so many requests of 4 tokens: 10 ms in the line, 30 of prefill, 60 of decode each."""
    labels = f'{{model="m",pid="{pid}",version="1"}}'
    lines = [f"# HELP {table.WAITING.name} x", f"# TYPE {table.WAITING.name} gauge"]
    for spec in table.GAUGES:
        lines.append(f"{spec.name}{labels} {gauges.get(spec.name, 0)}")
    lines.append(f'nv_inference_pending_request_count{{model="m",version="1"}} {gauges.get(table.WAITING.name, 0)}')
    lines.append(f"# TYPE {table.OUTPUT_TOKENS.name} counter")
    lines += [f"{table.OUTPUT_TOKENS.name}{labels} {4 * steps}", f"{table.PROMPT_TOKENS.name}{labels} {10 * steps}"]
    lines += [f"{table.PREFIX_QUERIES.name}{labels} {10 * steps}", f"{table.PREFIX_HITS.name}{labels} {4 * steps}"]
    for spec, seconds in ((table.QUEUE_TIME, 0.01), (table.PREFILL_TIME, 0.03), (table.DECODE_TIME, 0.06)):
        lines += [f"{spec.name}_sum{labels} {seconds * steps}", f"{spec.name}_count{labels} {steps}"]
        for bound in (*spec.bounds, float("inf")):
            told = "+Inf" if bound == float("inf") else bound
            count = steps if seconds <= bound else 0
            lines.append(f'{spec.name}_bucket{{le="{told}",model="m",pid="{pid}",version="1"}} {count}')
    return "\n".join(lines) + "\n"


def stats(steps: int, chunks: int = 4) -> str:
    def one(name: str, count: int, ms: float) -> dict[str, Any]:
        time = {"count": count, "ns": round(count * ms * 1e6)}
        times = dict.fromkeys(("success", "queue", "compute_infer"), time)
        return {"name": name, "version": "1", "inference_count": count, "execution_count": count,
                "inference_stats": {**times, "fail": {"count": 0, "ns": 0}}}  # fmt: skip

    told = [one("ensemble", steps, 100), one("tokenizer", steps, 2), one("detokenizer", steps * chunks, 1),
            one("idle", 0, 0)]  # fmt: skip
    return json.dumps({"model_stats": told})


CONFIGS = {
    "ensemble": {
        "ensemble_scheduling": {"step": [{"model_name": "tokenizer"}, {"model_name": "detokenizer"}]},
        "model_transaction_policy": {"decoupled": True},
    },
    "tokenizer": {},
    "detokenizer": {"model_transaction_policy": {"decoupled": False}},
}


class Pages:
    """What a server says, by path; an int is the status of an error."""

    def __init__(self) -> None:
        self.of: dict[str, str | int] = {f"/v2/models/{n}/config": json.dumps(c) for n, c in CONFIGS.items()}
        self.url = ""

    def set(self, steps: int, **more: Any) -> None:
        self.of |= {"/metrics": exposition(steps, **more), "/v2/models/stats": stats(steps)}

    @property
    def sources(self) -> Sources:
        return Sources(f"{self.url}/metrics", self.url, "ensemble")


@contextmanager
def serving(pages: Pages) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.of.get(self.path, 404)
            self.send_response(page if isinstance(page, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(page, int) else page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        pages.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    made.set(0)
    with serving(made):
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path, RunInfo("n", 0, "triton-grpc", "t", "ensemble", {}, {}, 1.0, 1, 1))
    return tmp_path


def looked(folder: Path, pages: Pages, *states: dict[str, Any]) -> None:
    """A recording with one sample for each state, a second apart."""
    watch = Watch(folder, pages.sources, interval_s=1000)
    pages.set(**states[0])
    with watch:
        for state in states[1:-1]:
            pages.set(**state)
            watch._look()
        pages.set(**states[-1])
    lines = [json.loads(line) for line in (folder / SERVER_FILE).read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines[1:]):
        line["at_unix_ns"] = number * SECOND
    (folder / SERVER_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_series_are_written_as_they_are_read() -> None:
    key = series("a", {"z": 'quo"te', "b": "back\\slash\nline"})
    ((read_key, (sample, value)),) = parse(f"{key} 3").items()
    assert (read_key, value) == (key, 3.0)
    assert sample.labels == {"z": 'quo"te', "b": "back\\slash\nline"}


def test_names_of_tritons_counters_stay_as_they_are() -> None:
    text = '# TYPE nv_inference_count counter\nnv_inference_count{model="m"} 2\nx NaN\n'
    assert list(parse(text)) == ['nv_inference_count{model="m"}']


def test_differences_over_the_window_not_totals(folder: Path, pages: Pages) -> None:
    looked(folder, pages, {"steps": 1000}, {"steps": 1002}, {"steps": 1010})
    told = summarize(folder)
    assert told is not None
    assert told["engine"] == "conch"
    assert told["counters"]["output_tokens"] == 40
    assert told["counters"]["output_tokens_per_s"] == pytest.approx(20.0)
    assert told["counters"]["prefix_hit_share"] == pytest.approx(0.4)
    assert told["times"]["queue_ms"]["count"] == 10
    assert told["times"]["queue_ms"]["mean"] == pytest.approx(10.0)
    assert told["times"]["prefill_ms"]["mean"] == pytest.approx(30.0)
    assert told["times"]["decode_ms"]["mean"] == pytest.approx(60.0)
    assert told["times"]["prefill_ms"]["p99"]["low"] == pytest.approx(20.0)
    assert told["times"]["prefill_ms"]["p99"]["high"] == pytest.approx(40.0)
    assert told["resets"] == []


def test_times_of_each_model_and_of_a_generation(folder: Path, pages: Pages) -> None:
    looked(folder, pages, {"steps": 5}, {"steps": 15})
    told = summarize(folder)
    assert told is not None
    models = {one["model"]: one for one in told["models"]}
    assert list(models) == ["ensemble", "tokenizer", "detokenizer"]  # the idle one did nothing
    assert models["ensemble"]["step_of_entry"] is False
    assert models["ensemble"]["decoupled"] is True
    assert models["detokenizer"]["calls_per_generation"] == pytest.approx(4.0)
    assert models["detokenizer"]["call_ms"] == pytest.approx(1.0)
    assert models["detokenizer"]["per_generation_ms"] == pytest.approx(4.0)
    assert models["tokenizer"]["per_generation_ms"] == pytest.approx(2.0)
    assert models["tokenizer"]["compute_input_ms"] is None  # this server does not tell


def test_a_window_takes_the_samples_around_it(folder: Path, pages: Pages) -> None:
    looked(folder, pages, *({"steps": 10 * n} for n in range(6)))
    told = summarize(folder, begin_ns=round(1.5 * SECOND), end_ns=3 * SECOND)
    assert told is not None
    assert (told["window"]["begin_s"], told["window"]["end_s"]) == (1.0, 3.0)
    assert told["times"]["queue_ms"]["count"] == 20
    outside = summarize(folder, begin_ns=-SECOND, end_ns=100 * SECOND)
    assert outside is not None
    assert (outside["window"]["begin_s"], outside["window"]["end_s"]) == (0.0, 5.0)


def test_a_counter_that_falls_began_anew_and_is_said(folder: Path, pages: Pages) -> None:
    looked(folder, pages, {"steps": 100}, {"steps": 104}, {"steps": 3})
    told = summarize(folder)
    assert told is not None
    assert told["counters"]["output_tokens"] == 4 * (4 + 3)
    (reset,) = told["resets"]
    assert table.OUTPUT_TOKENS.name in reset["names"]
    assert table.WAITING.name not in reset["names"]
    assert reset["at_s"] == 2.0
    assert reset["series"].startswith(f"{reset['count']} counters, such as ")


def test_a_process_that_takes_over_counts_from_its_beginning(folder: Path, pages: Pages) -> None:
    looked(folder, pages, {"steps": 100, "pid": 7}, {"steps": 104, "pid": 7}, {"steps": 3, "pid": 8})
    told = summarize(folder)
    assert told is not None
    assert told["counters"]["output_tokens"] == 4 * (4 + 3)


def test_gauges_fall_without_being_resets(folder: Path, pages: Pages) -> None:
    waiting = table.WAITING.name
    looked(folder, pages, {"steps": 1, waiting: 9}, {"steps": 1, waiting: 3}, {"steps": 1, waiting: 0})
    told = summarize(folder)
    assert told is not None
    assert told["resets"] == []  # nor is one whose name ends like a counter's
    assert told["gauges"]["waiting"] == {"mean": 4.0, "highest": 9.0, "last": 0.0}
    assert [one["waiting"] for one in told["timeline"]] == [9.0, 3.0, 0.0]


def test_what_a_server_does_not_tell_is_missing_not_zero(folder: Path, pages: Pages) -> None:
    pages.of["/metrics"] = "nv_cpu_utilization 0.5\n"
    with Watch(folder, pages.sources):
        pass
    told = summarize(folder)
    assert told is not None
    assert told["engine"] is None
    assert told["counters"] == {}
    assert told["times"] == {}
    assert set(told["gauges"]) == {"cpu_utilization"}
    assert any("an engine's metrics" in one for one in told["missing"])
    assert any("gpu_utilization" in one for one in told["missing"])


def test_a_server_that_is_away_for_a_moment_is_said_and_costs_only_its_samples(folder: Path, pages: Pages) -> None:
    watch = Watch(folder, pages.sources, interval_s=1000)
    pages.set(steps=10)
    with watch:
        pages.of["/metrics"] = 503
        watch._look()
        pages.set(steps=14)
    told = summarize(folder)
    assert told is not None
    assert told["counters"]["output_tokens"] == 16
    assert told["resets"] == []
    assert any("metrics in 1 of 3 samples" in one and "HTTP 503" in one for one in told["missing"])


def test_metrics_that_come_late_do_not_count_what_was_before(folder: Path, pages: Pages) -> None:
    watch = Watch(folder, pages.sources, interval_s=1000)
    pages.of["/metrics"] = 503
    with watch:
        pages.set(steps=1000)
        watch._look()
        pages.set(steps=1001)
    recording = read(folder, 0)
    grown = growth(recording, recording.looks, METRICS)
    assert grown is not None
    assert sum(v for k, v in grown.by.items() if k.startswith(table.OUTPUT_TOKENS.name)) == 4


def test_no_server_at_all_gives_a_summary_that_says_so(folder: Path) -> None:
    with Watch(folder, Sources("http://127.0.0.1:9/metrics", "http://127.0.0.1:9", "ensemble")):
        pass
    told = summarize(folder)
    assert told is not None
    assert (told["engine"], told["models"], told["counters"]) == (None, [], {})
    assert any("which models" in one for one in told["missing"])
    assert any(one.startswith("metrics in 2 of 2 samples") for one in told["missing"])


def test_a_run_without_samples_has_none(folder: Path) -> None:
    assert summarize(folder) is None


def test_models_times_come_from_metrics_where_there_are_no_statistics(folder: Path, pages: Pages) -> None:
    template = 'nv_inference_request_success{{model="llm",version="1"}} {0}\n' \
        'nv_inference_request_duration_us{{model="llm",version="1"}} {1}\n'
    watch = Watch(folder, Sources(f"{pages.url}/metrics", None, "llm"), interval_s=1000)
    pages.of["/metrics"] = template.format(2, 5000)
    with watch:
        pages.of["/metrics"] = template.format(4, 15000)
    told = summarize(folder)
    assert told is not None
    (model,) = told["models"]
    assert (model["source"], model["calls"], model["call_ms"]) == ("metrics", 2.0, 5.0)
    assert model["decoupled"] is None


def test_vllm_and_tensorrt_llm_are_known_by_their_names(folder: Path, pages: Pages) -> None:
    texts = {
        "vllm": "vllm:num_requests_running 3\nvllm:num_requests_waiting 2\n",
        "tensorrt_llm": 'nv_trt_llm_request_metrics{request_type="waiting",model="m"} 2\n'
        'nv_trt_llm_request_metrics{request_type="scheduled",model="m"} 3\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.5\n',
    }
    for name, text in texts.items():
        pages.of["/metrics"] = text
        with Watch(folder, Sources(f"{pages.url}/metrics", None, "m")):
            pass
        told = summarize(folder)
        assert told is not None
        assert told["engine"] == name
        assert told["gauges"]["waiting"]["mean"] == 2.0
        assert told["gauges"]["running"]["mean"] == 3.0


def test_quantiles_say_between_which_bounds_they_lie() -> None:
    one = Histogram({1.0: 50.0, 2.0: 90.0, 4.0: 99.0, float("inf"): 100.0}, 150.0, 100.0)
    assert one.mean == 1.5
    assert one.quantile(0.5) == Bound(1.0, 0.0, 1.0)
    assert one.quantile(0.7) == Bound(1.5, 1.0, 2.0)
    assert one.quantile(0.995) == Bound(None, 4.0, None)
    assert Histogram({}, 0.0, 0.0).quantile(0.5) is None


@pytest.mark.parametrize("page", ["<html>no</html>", 500])
def test_a_page_that_is_no_metrics_is_refused_by_its_address(pages: Pages, page: str | int) -> None:
    pages.of["/metrics"] = page
    with pytest.raises(ScrapeError, match=r"/metrics: (not Prometheus|HTTP 500)"):
        metrics(f"{pages.url}/metrics")


@pytest.mark.parametrize("page", ["[]", "{}", '{"model_stats": [{"name": "m"}]}', "no"])
def test_statistics_that_are_none_are_refused_by_their_address(pages: Pages, page: str) -> None:
    pages.of["/v2/models/stats"] = page
    with pytest.raises(ScrapeError, match="/v2/models/stats: not Triton's statistics"):
        statistics(pages.url)


def test_an_ensemble_that_holds_itself_ends(pages: Pages) -> None:
    pages.of["/v2/models/tokenizer/config"] = pages.of["/v2/models/ensemble/config"]
    assert set(topology(pages.url, "ensemble")) == {"ensemble", "tokenizer", "detokenizer"}


def test_an_address_that_is_none_is_an_error_not_a_traceback() -> None:
    with pytest.raises(ScrapeError):
        get("nonsense")


def test_a_file_that_is_not_samples_is_refused_by_line(folder: Path) -> None:
    head = '{"models":{},"sources":{"model":"m"}}\n'
    numbers = '{"at_unix_ns":1,"changed":{"3":1}}\n'  # there are not so many series
    for text, line in (
        ("", 1), ("[]\n", 1), (head + "x\n", 2), (head + '{"at_unix_ns":1}\n', 2), (head + numbers, 2),
    ):  # fmt: skip
        (folder / SERVER_FILE).write_text(text, encoding="utf-8")
        with pytest.raises(BadRecordError, match=f":{line}:"):
            read(folder, 0)


@pytest.mark.parametrize(
    ("front", "target", "metrics_url", "statistics_url"),
    [
        ("triton-grpc", "10.0.0.1:8001", "http://10.0.0.1:8002/metrics", "http://10.0.0.1:8000"),
        ("triton-grpc", "10.0.0.1:9001", None, None),
        ("triton-http", "host:8000", "http://host:8002/metrics", "http://host:8000"),
        ("triton-http", "host:9000", None, "http://host:9000"),
        ("triton-http-stream", "https://host:8000", "http://host:8002/metrics", "https://host:8000"),
        ("openai", "http://host:9000/v1", "http://host:9000/metrics", None),
        ("triton-grpc", "[::1]:8001", "http://[::1]:8002/metrics", "http://[::1]:8000"),
    ],
)
def test_the_usual_places(
    front: str, target: str, metrics_url: str | None, statistics_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP", "GRPC", "METRICS"):
        monkeypatch.delenv(f"CONCH_{name}_PORT", raising=False)
    assert sources_of(front, target, "m") == Sources(metrics_url, statistics_url, "m")


def test_the_usual_places_of_a_server_on_other_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, port in (("HTTP", "1"), ("GRPC", "2"), ("METRICS", "3")):
        monkeypatch.setenv(f"CONCH_{name}_PORT", port)
    assert sources_of("triton-grpc", "h:2", "m") == Sources("http://h:3/metrics", "http://h:1", "m")
    assert here("m") == Sources("http://127.0.0.1:3/metrics", "http://127.0.0.1:1", "m")


def test_window_of_nothing_is_nothing() -> None:
    assert window([], 0, 1) == []


def test_the_command_watches_any_server(pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--metrics-url", f"{pages.url}/metrics", "--statistics-url", pages.url]
    assert main([*flags, "--seconds", "0.05", "--interval-s", "0.02"]) == 0
    told = capsys.readouterr().out
    assert "engine: conch" in told
    assert main([*flags, "--seconds", "0"]) == 1
    assert "seconds must be above 0, got 0" in capsys.readouterr().err


def test_the_command_on_a_folder(folder: Path, pages: Pages, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 1
    assert "no samples of a server" in capsys.readouterr().err
    looked(folder, pages, {"steps": 1}, {"steps": 3})
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counters"]["output_tokens"] == 8
    (folder / SERVER_FILE).write_text("x\n", encoding="utf-8")
    assert main([str(folder)]) == 1
    assert "not JSON" in capsys.readouterr().err


def test_rows_under_way_are_those_that_wait_and_those_that_run(pages: Pages) -> None:
    url = f"{pages.url}/metrics"
    pages.set(1, **{table.WAITING.name: 3, table.RUNNING.name: 64})
    assert rows_under_way(url) == 67
    assert wait_until_idle(url, most_s=0.0) == 67
    timer = threading.Timer(0.05, lambda: pages.set(1))
    timer.start()
    assert wait_until_idle(url, most_s=30) == 0
    timer.join()


def test_a_server_that_does_not_tell_is_not_waited_for(pages: Pages) -> None:
    pages.of["/metrics"] = "nv_cpu_utilization 0.5\n"
    assert wait_until_idle(f"{pages.url}/metrics", most_s=30) is None
    assert wait_until_idle("http://127.0.0.1:9/metrics", most_s=30) is None
    assert wait_until_idle(None, most_s=30) is None
