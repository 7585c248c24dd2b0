"""Answers, errors, retries, deadlines and cancels: the same over gRPC and HTTP, with threads and asyncio."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import re
import resource
import socket
import threading
import time
from pathlib import Path

import conch_client
import pytest
from askers import FAST_RETRY, KINDS, Asker
from conch_client import (
    Answer,
    CancelledError,
    Completion,
    ConchClientError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PerfMetrics,
    Retry,
    UnavailableError,
    UnsupportedError,
)
from conch_client.errors import error_of
from fake_servers import Abort, Chunk, Drop, Endless, Fail, GrpcServer, Hang, HttpServer, Raw, Refuse

import conch.errors
from conch.errors import ConchError

ROOT = Path(__file__).resolve().parents[2]

STREAMED = [
    Chunk("Grü", None, 1, 5), Chunk("ße ", None, 2, 5), Chunk("", None, 1, 5), Chunk("🐚", "length", 1, 5),
]  # fmt: skip
BUSY = Fail("UNAVAILABLE: all sequences are taken")


def test_a_stream_brings_its_pieces_and_their_sum(asker) -> None:
    asker.plans.plans = [STREAMED]
    texts: list[str] = []
    answer = asker.stream("x", into=texts, request_id="r1")
    assert texts == ["Grü", "ße ", "", "🐚"]
    assert answer == Completion("Grüße 🐚", "length", 5, 5, "r1", "3")


def test_generate_brings_the_whole(asker) -> None:
    asker.plans.plans = [[Chunk("Grüße\n🐚", "stop", 5, 4)]]
    assert asker.generate("x", request_id="r2", version=2) == Completion("Grüße\n🐚", "stop", 4, 5, "r2", "2")


def test_what_the_server_leaves_out_is_none(asker) -> None:
    asker.plans.plans = [[Chunk("a"), Chunk("b")]]
    answer = asker.stream("x")
    assert (answer.text, answer.finish_reason) == ("ab", None)
    assert (answer.num_input_tokens, answer.num_output_tokens) == (None, None)
    assert len(answer.request_id) == 32


NS = 1_700_000_000_000_000_000


def test_log_probs_ids_and_times_of_a_stream(asker) -> None:
    def of(ids: list[int], log_probs: list[float], total: float) -> dict:
        return {
            "token_ids": ("INT32", [1, 1, len(ids)], ids), "output_log_probs": ("FP32", [1, 1, len(ids)], log_probs),
            "cum_log_probs": ("FP32", [1, 1], [total]),
        }  # fmt: skip

    names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    offsets_ns = (0, 250_000, 12_000_000, 90_500_000)
    times = {name: ("INT64", [1, 1], [NS + ns]) for name, ns in zip(names, offsets_ns, strict=True)}
    asker.plans.plans = [[
        Chunk("a", more=of([7, 8], [-0.5, -0.25], -0.75)), Chunk("b", more=of([9], [-1.0], -1.75)),
        Chunk("", "stop", more={**of([], [], -1.75), **times}),
    ]]  # fmt: skip
    answer = asker.stream("x")
    assert (answer.text, answer.token_ids, answer.log_probs) == ("ab", (7, 8, 9), (-0.5, -0.25, -1.0))
    assert (answer.cum_log_prob, answer.alternatives) == (-1.75, ())
    assert answer.perf_metrics == PerfMetrics(NS, 0.25, 12.0, 90.5)


def test_many_answers_to_one_prompt(asker) -> None:
    more = {
        "token_ids": ("INT32", [1, 2, 3], [1, 2, 3, 4, 0, 0]),
        "output_log_probs": ("FP32", [1, 2, 3], [-1.0, -2.0, -3.0, -4.0, 0.0, 0.0]),
        "cum_log_probs": ("FP32", [1, 2], [-6.0, -4.0]),
    }
    asker.plans.plans = [[Chunk(["Grüße", ""], ["length", "stop"], [3, 1], 5, more)]]
    answer = asker.generate("x", num_return_sequences=2)
    assert answer.sequences == (
        Answer("Grüße", "length", 3, (1, 2, 3), (-1.0, -2.0, -3.0), -6.0), Answer("", "stop", 1, (4,), (-4.0,), -4.0),
    )  # fmt: skip
    assert (answer.text, answer.finish_reason, answer.num_input_tokens) == ("Grüße", "length", 5)
    assert answer.alternatives == answer.sequences[1:]


def test_an_answer_without_a_token_has_no_times_of_tokens(asker) -> None:
    times = {"arrival_time_ns": NS, "first_scheduled_time_ns": 0, "first_token_time_ns": 0, "last_token_time_ns": 0}
    more = {name: ("INT64", [1, 1], [value]) for name, value in times.items()}
    asker.plans.plans = [[Chunk("", "cancelled", more=more)]]
    assert asker.generate("x").perf_metrics == PerfMetrics(NS, None, None, None)


def test_outputs_that_do_not_fit_each_other(asker) -> None:
    asker.plans.plans = [[Chunk(["a", "b"], ["stop", "stop", "stop"])]]
    with pytest.raises(InternalError, match=r"^the server sent 3 finish_reason for 2 answers$"):
        asker.generate("x")


@pytest.mark.parametrize(
    ("plan", "kind", "message"),
    [
        ([Fail("DEADLINE_EXCEEDED: timeout_ms of 5 has passed")], DeadlineExceededError, "timeout_ms of 5 has passed"),
        ([Fail("top_p must be < 1, got 3")], InvalidArgumentError, "top_p must be < 1, got 3"),
        ([Fail("UNSUPPORTED: no beams here")], UnsupportedError, "no beams here"),
        ([Fail("internal error (KeyError)")], InternalError, "internal error (KeyError)"),
        ([Fail("CANCELLED: server stops")], CancelledError, "server stops"),
        ([BUSY], UnavailableError, "all sequences are taken"),
        (
            [Refuse(404, "Request for unknown model: 'nope' is not found")],
            NotFoundError,
            "Request for unknown model: 'nope' is not found",
        ),
        ([Refuse(400, "[request id: 1] input 'x' is bad")], InvalidArgumentError, "input 'x' is bad"),
        (
            [Refuse(400, "in ensemble 'e', [request id: <id>] Server is stopping, scheduler has stopped")],
            UnavailableError,
            "Server is stopping, scheduler has stopped",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_an_error_is_the_same_everywhere(asker, method, plan, kind, message) -> None:
    asker.plans.plans = [plan]
    with pytest.raises(ConchClientError) as caught:
        getattr(asker, method)("x", request_id="r3")
    assert type(caught.value) is kind
    assert caught.value.message == str(caught.value) == message
    assert caught.value.request_id == "r3"
    assert len(asker.plans.seen) == (FAST_RETRY.max_attempts if kind is UnavailableError else 1)


def test_an_error_inside_a_stream_comes_after_what_was_sent(asker) -> None:
    asker.plans.plans = [[Chunk("a"), Chunk("b"), BUSY]]
    texts: list[str] = []
    with pytest.raises(UnavailableError, match="all sequences are taken"):
        asker.stream("x", into=texts)
    assert texts == ["a", "b"]
    assert len(asker.plans.seen) == 1, "never again after a token was seen"


def test_an_error_of_unknown_kind_inside_a_stream_is_internal(asker) -> None:
    asker.plans.plans = [[Chunk("a"), Fail("it went wrong")]]
    with pytest.raises(InternalError, match=r"^it went wrong$"):
        asker.stream("x")


@pytest.mark.parametrize("method", ["generate", "stream"])
def test_a_busy_server_is_asked_again(asker, method) -> None:
    asker.plans.plans = [[BUSY], [BUSY], [Chunk("at last", "stop")]]
    assert getattr(asker, method)("x").text == "at last"
    assert len(asker.plans.seen) == 3
    assert len({seen.request_id for seen in asker.plans.seen}) == 1


def test_server_client_and_docs_agree_on_what_may_be_tried_again() -> None:
    kinds = [kind for kind in vars(conch.errors).values() if isinstance(kind, type) and issubclass(kind, ConchError)]
    server = {kind.code.value: kind.retryable for kind in kinds}
    assert {code for code, retryable in server.items() if retryable} == {"UNAVAILABLE"}
    for code, retryable in server.items():
        error = error_of(code, "no")
        assert (error.code, error.retryable) == (code, retryable)
    table = re.findall(r"^\| `([A-Z_]+)` \|.*\| (yes|no)\b[^|]*\|$", (ROOT / "docs" / "errors.md").read_text(), re.M)
    assert len(table) == 6
    assert {code: helps == "yes" for code, helps in table} == {code: server[code] for code, _ in table}


def test_a_full_line_says_when_to_come_back(asker) -> None:
    """What the server says is waited for beyond the longest wait of the policy, but not beyond the deadline."""
    full = Fail("UNAVAILABLE: maximum queue size of 3 reached. Try again in 1 s")
    asker.plans.plans = [[full], [Chunk("at last", "stop")]]
    begun_s = time.monotonic()
    assert asker.generate("x").text == "at last"
    assert time.monotonic() - begun_s >= 1
    asker.plans.plans = [[full]]
    with pytest.raises(UnavailableError, match="maximum queue size of 3 reached") as caught:
        asker.generate("x", timeout_s=0.9)
    assert caught.value.retry_after_s == 1
    assert len(asker.plans.seen) == 3


def _was_stopped(asker) -> bool:
    """Whether the server was told to end the first request that it saw."""
    end_s = time.monotonic() + 5
    while len(asker.plans.seen) < 2 and time.monotonic() < end_s:
        time.sleep(0.01)
    if len(asker.plans.seen) < 2:
        return False
    first, second = asker.plans.seen
    assert list(second.tensors) == ["stop"]
    return second.request_id == first.request_id


def test_a_whole_answer_out_of_time_is_stopped(asker) -> None:
    asker.plans.plans = [[Hang()], [Chunk("", "cancelled")]]
    with pytest.raises(DeadlineExceededError, match=r"no full answer within timeout_s = 0\.5"):
        asker.generate("x", timeout_s=0.5)
    assert _was_stopped(asker)


def test_nobody_elses_request_is_stopped(asker) -> None:
    """An id that the caller chose may be another's too."""
    asker.plans.plans = [[Hang()], [Chunk("", "cancelled")]]
    with pytest.raises(DeadlineExceededError):
        asker.generate("x", timeout_s=0.3, request_id="chosen")
    assert len(asker.plans.seen) == 1


@pytest.mark.parametrize("kind", ["grpc_aio", "http_aio"])
async def test_a_cancelled_task_stops_a_whole_answer(kind) -> None:
    server = KINDS[kind][1]()
    server.plans.plans = [[Hang()], [Chunk("", "cancelled")]]
    async with KINDS[kind][0](server.url) as client:
        task = asyncio.create_task(client.generate("x"))
        await asyncio.to_thread(server.plans.arrived.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    first, second = server.plans.seen
    assert (list(second.tensors), second.request_id) == (["stop"], first.request_id)
    server.close()


def test_no_retry_if_told_so(asker) -> None:
    asker.plans.plans = [[BUSY], [Chunk("ok")]]
    with pytest.raises(UnavailableError):
        asker.call("generate", "x", client={"retry": Retry(max_attempts=1)})
    assert len(asker.plans.seen) == 1


def test_no_wait_that_goes_beyond_the_deadline(asker) -> None:
    asker.plans.plans = [[BUSY]]
    retry = Retry(max_attempts=9, initial_backoff_s=1000, max_backoff_s=1000)
    with pytest.raises(UnavailableError, match="all sequences are taken"):
        asker.call("generate", "x", client={"retry": retry}, timeout_s=30)
    assert len(asker.plans.seen) == 1


@pytest.mark.parametrize("method", ["generate", "stream"])
def test_the_deadline_is_kept_and_the_server_hears_of_it(asker, method) -> None:
    asker.plans.plans = [[Hang()]]
    with pytest.raises(DeadlineExceededError, match=r"^no full answer within timeout_s = 0\.2$") as caught:
        getattr(asker, method)("x", timeout_s=0.2, request_id="r4")
    assert caught.value.request_id == "r4"
    assert len(asker.plans.seen) <= 1  # none, if the deadline was over before the request was there
    assert asker.plans.given_up.wait(5) or not asker.plans.seen


def test_the_deadline_is_over_the_whole_stream(asker) -> None:
    asker.plans.plans = [[Endless()]]
    with pytest.raises(DeadlineExceededError):
        asker.stream("x", timeout_s=0.3)
    assert asker.plans.given_up.wait(5) or not asker.plans.seen


def test_a_client_may_have_a_deadline_of_its_own(asker) -> None:
    asker.plans.plans = [[Hang()]]
    with pytest.raises(DeadlineExceededError):
        asker.call("generate", "x", client={"timeout_s": 0.2})


def test_leaving_the_block_gives_the_request_up(asker) -> None:
    asker.plans.plans = [[Endless()]]
    answer = asker.stream("x", stop_after=3)
    assert set(answer.text) == {"x"}
    assert asker.plans.given_up.wait(5)


def test_an_answer_without_a_response_is_an_error(asker) -> None:
    asker.plans.plans = [[Raw(b"\n")] if asker.is_http else []]
    with pytest.raises(InternalError, match="without a single response"):
        asker.stream("x")


def test_nobody_there() -> None:
    server = GrpcServer()
    server.close()
    messages = set()
    for kind in ("grpc", "grpc_aio", "http", "http_aio"):
        asker = Asker(kind, server.url)
        with pytest.raises(UnavailableError) as caught:
            asker.generate("x")
        messages.add(caught.value.message)
        health = asker.call("health")
        assert (health.live, health.ok, health.detail) == (False, False, caught.value.message)
    assert messages == {f"cannot reach {server.url}: Connection refused"}


def test_a_server_that_comes_back_is_found() -> None:
    server = GrpcServer()
    retry = Retry(max_attempts=50, initial_backoff_s=0.05, max_backoff_s=0.1)
    with conch_client.Client(server.url, retry=retry) as client:
        assert client.generate("x").text == "ok"
        server.close()
        later: list[GrpcServer] = []
        timer = threading.Timer(0.3, lambda: later.append(GrpcServer(address=server.url)))
        timer.start()
        assert client.generate("x", timeout_s=20).text == "ok"
        timer.join()
        later[0].close()


# --- cancel ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [[Endless()], [Hang()]])
@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_another_thread_can_cancel(kind, plan) -> None:
    server = (GrpcServer if kind == "grpc" else HttpServer)()
    server.plans.plans = [plan]
    with Asker(kind, server.url).make() as client:
        stream = client.stream("x")
        canceller = threading.Thread(target=lambda: server.plans.arrived.wait(10) and stream.cancel())
        canceller.start()
        with pytest.raises(CancelledError, match="cancelled by the caller"):
            for _ in stream:
                pass
        canceller.join()
        assert server.plans.given_up.wait(5)
        assert list(stream) == []
        server.plans.plans = [[Chunk("fine")]]
        assert client.generate("x").text == "fine"
    server.close()


def test_cancel_ends_the_wait_for_the_next_try() -> None:
    server = GrpcServer()
    server.plans.plans = [[BUSY]]
    with conch_client.Client(server.url, retry=Retry(initial_backoff_s=500, max_backoff_s=500)) as client:
        stream = client.stream("x", timeout_s=5000)
        canceller = threading.Thread(target=lambda: server.plans.arrived.wait(10) and stream.cancel())
        canceller.start()
        with pytest.raises(CancelledError):
            next(stream)
        canceller.join()
    server.close()


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_no_try_goes_out_after_a_cancel(kind) -> None:
    server = KINDS[kind][1]()
    server.plans.plans = [[BUSY]]
    with Asker(kind, server.url, retry=Retry(initial_backoff_s=500, max_backoff_s=500)).make() as client:
        stream = client.stream("x", timeout_s=5000)
        stream.cancel()
        with pytest.raises(CancelledError):
            next(stream)
        assert server.plans.seen == []
        stream = client.stream("x", timeout_s=5000)
        canceller = threading.Timer(0.2, stream.cancel)
        canceller.start()
        with pytest.raises(CancelledError):
            next(stream)
        canceller.join()
        time.sleep(0.1)  # for a second try to arrive, if there were one
        assert len(server.plans.seen) == 1
    server.close()


def test_a_stream_that_is_forgotten_is_given_up() -> None:
    for kind, make in (("grpc", GrpcServer), ("http", HttpServer)):
        server = make()
        server.plans.plans = [[Endless()]]
        with Asker(kind, server.url).make() as client:
            stream = client.stream("x")
            next(stream)
            del stream
            gc.collect()
            assert server.plans.given_up.wait(5)
        server.close()


@pytest.mark.parametrize("plan", [[Endless()], [Hang()]])
@pytest.mark.parametrize("kind", ["grpc_aio", "http_aio"])
async def test_asyncio_cancels(kind, plan) -> None:
    server = (GrpcServer if kind.startswith("grpc") else HttpServer)()

    async def read(stream) -> None:
        async for _ in stream:
            pass

    async with Asker(kind, server.url).make() as client:
        for how in ("stream", "task", "timeout"):
            server.plans.plans = [plan]
            server.plans.arrived, server.plans.given_up = threading.Event(), threading.Event()
            stream = client.stream("x")
            task = asyncio.create_task(asyncio.wait_for(read(stream), 1 if how == "timeout" else 60))
            assert await asyncio.to_thread(server.plans.arrived.wait, 10)
            if how == "stream":
                stream.cancel()
            elif how == "task":
                task.cancel()
            with pytest.raises(
                {"stream": CancelledError, "task": asyncio.CancelledError, "timeout": asyncio.TimeoutError}[how]
            ):
                await task
            assert await asyncio.to_thread(server.plans.given_up.wait, 5)
            server.plans.plans = [[Chunk("fine")]]
            assert (await client.generate("x")).text == "fine"
        stream = client.stream("x")
        stream.cancel()
        with pytest.raises(CancelledError):
            await read(stream)
    server.close()


async def test_many_streams_share_one_asyncio_client() -> None:
    for kind, make in (("grpc_aio", GrpcServer), ("http_aio", HttpServer)):
        server = make()
        async with Asker(kind, server.url).make() as client:
            answers = await asyncio.gather(*(client.generate(f"{i}", request_id=f"r{i}") for i in range(40)))
            server.plans.plans = [STREAMED]
            streams = [client.stream("x") for _ in range(6)]
            for stream in streams:
                await stream.__anext__()
            for stream in streams:
                async for _ in stream:
                    pass
            assert {stream.text for stream in streams} == {"Grüße 🐚"}
        assert [a.request_id for a in answers] == [f"r{i}" for i in range(40)]
        server.close()


def test_threads_share_one_client() -> None:
    for kind, make in (("grpc", GrpcServer), ("http", HttpServer)):
        server = make()
        server.plans.plans = [STREAMED]
        texts: list[str] = []
        with Asker(kind, server.url).make() as client:

            def read(client=client, texts=texts) -> None:
                for _ in range(5):
                    with client.stream("x") as stream:
                        texts.append("".join(chunk.text for chunk in stream))

            threads = [threading.Thread(target=read) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert texts == ["Grüße 🐚"] * 30
        server.close()


def test_a_closed_client_says_so(asker) -> None:
    if asker.is_async:

        async def run() -> None:
            client = asker.make()
            await client.generate("x")
            await client.close()
            await client.generate("x")

        with pytest.raises(UnavailableError, match="the client is closed") as caught:
            asyncio.run(run())
    else:
        client = asker.make()
        client.generate("x")
        client.close()
        with pytest.raises(UnavailableError, match="the client is closed") as caught:
            client.generate("x")
        with pytest.raises(UnavailableError, match="the client is closed"):
            client.models()
    assert not caught.value.retryable


@pytest.mark.parametrize("kind", ["grpc", "grpc_aio"])
@pytest.mark.parametrize(
    ("status", "code"),
    [("UNIMPLEMENTED", "UNSUPPORTED"), ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"), ("CANCELLED", "CANCELLED"),
     ("PERMISSION_DENIED", "PERMISSION_DENIED"), ("UNKNOWN", "INTERNAL"), ("UNAVAILABLE", "UNAVAILABLE")],
)  # fmt: skip
def test_a_call_that_ends_with_a_status(kind, status, code) -> None:
    server = GrpcServer()
    for before in ([], [Chunk("a")]):
        server.plans.plans = [[*before, Abort(status, "so it is")]]
        texts: list[str] = []
        with pytest.raises(ConchClientError) as caught:
            Asker(kind, server.url).stream("x", into=texts)
        assert (caught.value.code, caught.value.message, len(texts)) == (code, "so it is", len(before))
    server.close()


# --- HTTP alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "http_aio"])
def test_a_stream_may_be_cut_anywhere(kind) -> None:
    server = HttpServer()
    body = 'data: {"text_output": "Grü"}\r\n\r\n: note\ndata: {"text_output":\ndata: "🐚"}\n\n'.encode()
    asker = Asker(kind, server.url)
    for cut in range(1, len(body)):
        server.plans.plans = [[Raw(body[:cut]), Raw(body[cut:])]]
        texts: list[str] = []
        asker.stream("x", into=texts)
        assert texts == ["Grü", "🐚"]
    server.plans.plans = [[Raw(body[i : i + 1]) for i in range(len(body))]]
    assert asker.stream("x").text == "Grü🐚"
    server.close()


@pytest.mark.parametrize("kind", ["http", "http_aio"])
def test_a_connection_that_breaks_is_unavailable(kind) -> None:
    server = HttpServer()
    asker = Asker(kind, server.url)
    server.plans.plans = [[Chunk("a"), Drop()]]
    texts: list[str] = []
    with pytest.raises(UnavailableError):
        asker.stream("x", into=texts)
    assert texts == ["a"]
    assert len(server.plans.seen) == 1
    server.plans.plans = [[Raw(b'data: {"text_output": "a"}\n\ndata: {"text'), Raw(b"_output")]]
    with pytest.raises(UnavailableError, match="ended within a response"):
        asker.stream("x")
    server.plans.plans = [[Raw(b"data: what?\n\n")]]
    with pytest.raises(InternalError, match="must be a JSON object, got b'what"):
        asker.stream("x")
    server.plans.plans = [[Drop()], [Chunk("again")]]
    assert asker.stream("x").text == "again"
    server.close()


def test_more_open_files_than_select_takes() -> None:
    server = HttpServer()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        with conch_client.HttpClient(server.url) as client:
            client.generate("x")
            (idle,) = client._transport._idle
            idle.sock = socket.socket(fileno=fcntl.fcntl(idle.sock.detach(), fcntl.F_DUPFD, 2000))
            assert client.generate("x").text == "ok"
            assert client._transport._idle == [idle]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        server.close()


@pytest.mark.parametrize("kind", ["http", "http_aio"])
def test_text_that_is_none(kind) -> None:
    server = HttpServer()
    server.plans.plans = [[Raw(b'data: {"text_output": 5}\n\n')]]
    with pytest.raises(InternalError, match=r"^text_output of the server's response must be text"):
        Asker(kind, server.url).stream("x")
    server.close()


def test_connections_are_kept_and_dead_ones_replaced() -> None:
    server = HttpServer()
    with conch_client.HttpClient(server.url, retry=Retry(max_attempts=1)) as client:
        for _ in range(3):
            client.generate("x")
            client.health()
            list(client.stream("x"))
        assert server.plans.connections == 1
        server.drop_connections()
        assert client.generate("x").text == "ok"
        assert server.plans.connections == 2
        server.plans.plans = [[Endless()], [Refuse(404, "no")], [Chunk("ok")]]
        with client.stream("x") as stream:
            next(stream)
        with pytest.raises(NotFoundError):
            client.generate("x")
        assert client.generate("x").text == "ok"
        assert server.plans.connections == 3
    server.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (413, "RESOURCE_EXHAUSTED"), (429, "UNAVAILABLE"),
     (502, "UNAVAILABLE"), (504, "DEADLINE_EXCEEDED"), (500, "INTERNAL"), (418, "INVALID_ARGUMENT")],
)  # fmt: skip
def test_statuses_of_what_stands_in_front(status, code) -> None:
    from conch_client.http_wire import status_error

    error = status_error(status, b"<html>proxy</html>")
    assert (error.code, error.message) == (code, f"HTTP status {status}")
    assert error.retryable == (code == "UNAVAILABLE")
