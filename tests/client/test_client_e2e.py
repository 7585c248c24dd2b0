"""The clients against the real ensemble: the same over gRPC and HTTP, with threads and asyncio."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
from askers import KINDS, Asker
from conch_client import (
    CancelledError,
    Client,
    Completion,
    ConchClientError,
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
)
from conch_client.cli import main
from server_processes import wait_until

pytestmark = pytest.mark.e2e

PROMPT = "The Conch shell of Triton, son of Poseidon,"
CHAT = [{"role": "user", "content": "Name three sea animals, in Greek and in English."}]
GREEDY = {"temperature": 0.0, "max_tokens": 24}
LONG = {"temperature": 0.0, "max_tokens": 2000, "end_id": -1}


def _settings(kind: str, server) -> dict[str, str]:
    port = server.http_port if kind.startswith("http") else server.grpc_port
    return {"url": f"{server.host}:{port}", "metrics_url": f"{server.host}:{server.metrics_port}"}


@pytest.fixture(params=list(KINDS))
def real(request: pytest.FixtureRequest, server) -> Asker:
    """A client of each kind of the real server."""
    return Asker(request.param, **_settings(request.param, server))


@pytest.fixture
def askers(server) -> list[Asker]:
    """All four."""
    return [Asker(kind, **_settings(kind, server)) for kind in KINDS]


@pytest.mark.parametrize("question", [{"prompt": PROMPT}, {"messages": CHAT}])
def test_streamed_pieces_are_the_whole(askers, question) -> None:
    answers: set[Completion] = set()
    for asker in askers:
        pieces: list[str] = []
        answers.add(asker.generate(**question, **GREEDY, request_id="same"))
        answers.add(asker.stream(**question, **GREEDY, request_id="same", into=pieces))
        assert len(pieces) > 4
    (answer,) = answers
    assert answer.text
    assert answer.finish_reason in ("stop", "length")
    assert answer.num_output_tokens is not None
    assert 0 < answer.num_output_tokens <= 24
    assert answer.num_input_tokens is not None
    assert answer.num_input_tokens > 5
    assert answer.model_version.isdigit()


def test_controls_do_what_they_say(real) -> None:
    long = real.generate(PROMPT, temperature=0.0, max_tokens=40, end_id=-1)
    assert (long.finish_reason, long.num_output_tokens) == ("length", 40)
    stop = long.text[12:16]
    short = real.stream(PROMPT, temperature=0.0, max_tokens=40, end_id=-1, stop_words=["never to be seen", stop])
    assert (short.text, short.finish_reason) == (long.text[: long.text.index(stop)], "stop")
    seeded = [real.generate(PROMPT, temperature=1.0, top_p=0.9, seed=7, max_tokens=12).text for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_counts_only_if_asked_for(real) -> None:
    answer = real.stream(PROMPT, **GREEDY, return_num_input_tokens=False, return_num_output_tokens=False)
    assert (answer.num_input_tokens, answer.num_output_tokens) == (None, None)


def test_both_ensembles_answer_the_same(real) -> None:
    assert real.stream(PROMPT, **GREEDY).text == real.stream(PROMPT, **GREEDY, model="llama_pipeline").text


def test_text_of_all_scripts_survives(real) -> None:
    text = "Grüße, 世界! 🐚 \u200d \x00 \\ \" \t"
    messages = [{"role": "user", "content": f"Repeat: {text}"}]
    counts = {real.generate(messages=messages, max_tokens=1).num_input_tokens for _ in range(2)}
    assert len(counts) == 1
    assert real.generate(text, max_tokens=1).num_input_tokens > 10


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"prompt": PROMPT, "model": "nope"}, NotFoundError),
        ({"prompt": PROMPT, "version": 999}, NotFoundError),
        ({"prompt": PROMPT, "top_p": 3.0}, InvalidArgumentError),
        ({"prompt": PROMPT, "temperature": -1.0}, InvalidArgumentError),
        ({"prompt": PROMPT, "max_tokens": 0}, InvalidArgumentError),
        ({"prompt": PROMPT, "stop_words": [f"x{i}" for i in range(1000)]}, InvalidArgumentError),
        ({"prompt": PROMPT * 5000}, InvalidArgumentError),
        ({"messages": []}, InvalidArgumentError),
        ({"messages": [{"role": "user"}]}, InvalidArgumentError),
        ({"messages": [{"role": "nobody", "content": 3}]}, InvalidArgumentError),
        ({"prompt": PROMPT, "lora_task_id": 3}, ConchClientError),
    ],
)
def test_errors_are_equal_on_all_ways(askers, arguments, kind) -> None:
    seen: set[tuple[str, str]] = set()
    for asker in askers:
        for method in (asker.generate, asker.stream):
            with pytest.raises(kind) as caught:
                method(**arguments, request_id="same")
            assert caught.value.request_id == "same"
            seen.add((caught.value.code, caught.value.message))
    assert len(seen) == 1, seen
    ((_, message),) = seen
    assert "Traceback" not in message
    assert ".py" not in message


def test_a_value_that_is_wrong_is_named(real) -> None:
    with pytest.raises(InvalidArgumentError, match=r"top_p must be in \[0, 1\], got 3"):
        real.generate(PROMPT, top_p=3.0)


def test_deadline(real) -> None:
    pieces: list[str] = []
    with pytest.raises(DeadlineExceededError, match=r"no full answer within timeout_s = 0\.5"):
        real.stream(PROMPT, **LONG, timeout_s=0.5, into=pieces)
    assert real.generate(PROMPT, **GREEDY).text



def test_the_servers_own_deadline(real) -> None:
    with pytest.raises(DeadlineExceededError, match=r"^timeout_ms of 300 has passed$"):
        real.generate(PROMPT, **LONG, stop_words=["never there"], timeout_ms=300)
    with pytest.raises(DeadlineExceededError, match=r"^timeout_ms of 300 (has passed|cannot be met: .*)$"):
        real.generate(PROMPT, **LONG, timeout_ms=300)  # nothing can end it before


ENDLESS = {"temperature": 0.0, "max_tokens": 8000, "end_id": -1}


def test_a_whole_answer_that_nobody_waits_for_is_ended(real) -> None:
    """It would take minutes; the counter of the engine rises when a request ends."""

    def ended() -> float:
        return real.call("metrics").total("nv_inference_request_success", model="llama_engine")

    before = ended()
    with pytest.raises(DeadlineExceededError):
        real.generate(PROMPT, **ENDLESS, timeout_s=1)
    wait_until(lambda: ended() >= before + 2, 30)  # the request, and the one that ended it


def test_cancel_by_id(real) -> None:
    timer = threading.Timer(0.5, lambda: real.call("cancel", "an-id-of-its-own"))
    timer.start()
    answer = real.generate(PROMPT, **ENDLESS, request_id="an-id-of-its-own")
    timer.join()
    assert (answer.finish_reason, bool(answer.text)) == ("cancelled", True)
    real.call("cancel", "nobody-has-this-id")


def test_many_answers(askers) -> None:
    controls = {"max_tokens": 12, "temperature": 1.0, "seed": 5, "end_id": -1, "num_return_sequences": 3}
    answers = {a.generate(PROMPT, **controls, return_log_probs=True, return_token_ids=True).sequences for a in askers}
    assert len(answers) == 1
    (sequences,) = answers
    assert len({s.text for s in sequences}) == 3
    for sequence in sequences:
        assert (sequence.finish_reason, sequence.num_output_tokens) == ("length", 12)
        assert (len(sequence.token_ids), len(sequence.log_probs)) == (12, 12)
        assert sequence.cum_log_prob == pytest.approx(sum(sequence.log_probs), rel=1e-4)


def test_what_is_known_of_an_answer(askers) -> None:
    wanted = {"return_log_probs": True, "return_token_ids": True, "return_perf_metrics": True}
    known = set()
    for asker in askers:
        for answer in (asker.generate(PROMPT, **GREEDY, **wanted), asker.stream(PROMPT, **GREEDY, **wanted)):
            times = answer.perf_metrics
            assert 0 <= times.queue_ms <= times.first_token_ms <= times.last_token_ms
            assert len(answer.log_probs) == answer.num_output_tokens
            known.add((answer.text, answer.token_ids))
    assert len(known) == 1


def test_an_answer_that_follows_a_guide(real) -> None:
    schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}
    answer = real.generate("A spider as JSON: ", json_schema=schema, temperature=0.0, max_tokens=100)
    assert isinstance(json.loads(answer.text)["legs"], int)
    answer = real.stream("A number: ", regex="[0-9]{3}", temperature=0.0, max_tokens=20)
    assert re.fullmatch("[0-9]{3}", answer.text)
    with pytest.raises(InvalidArgumentError, match="guided_decoding_guide"):
        real.generate("A number: ", regex="[0-9", max_tokens=20)


def test_leaving_a_stream_and_asking_again(real) -> None:
    for _ in range(3):
        assert real.stream(PROMPT, **LONG, stop_after=2).text
    assert real.generate(PROMPT, **GREEDY).text


def test_cancel_from_another_thread(server) -> None:
    with Client(**_settings("grpc", server)) as client:
        stream = client.stream(PROMPT, **LONG)
        next(stream)
        timer = threading.Timer(0.1, stream.cancel)
        timer.start()
        with pytest.raises(CancelledError, match="cancelled by the caller"):
            for _ in stream:
                pass
        timer.join()
        assert stream.text
        assert stream.completion.finish_reason is None
        assert client.generate(PROMPT, **GREEDY).text


def test_many_at_once(server) -> None:
    with Client(**_settings("grpc", server)) as client:
        answers: list[Completion] = []

        def ask(number: int) -> None:
            answers.append(client.generate(f"{number} is", max_tokens=8, request_id=f"{number}"))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {a.request_id for a in answers} == {str(i) for i in range(16)}


def test_health_models_and_metrics(real) -> None:
    health = real.call("health")
    assert (health.live, health.ok) == (True, True)
    assert health.models == {"ensemble": True, "llama_pipeline": True}
    assert {m.name for m in real.call("models") if m.state == "READY"} >= {
        "ensemble", "llama_pipeline", "tokenizer", "llama_engine", "detokenizer",
    }  # fmt: skip
    before = real.call("metrics").total("nv_inference_request_success", model="ensemble")
    real.generate(PROMPT, max_tokens=2)
    assert real.call("metrics").total("nv_inference_request_success", model="ensemble") > before


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_command(server, capsys, protocol) -> None:
    options = ["--protocol", protocol, "--url", _settings(protocol, server)["url"]]
    assert main(["ask", *options, "--max-tokens", "8", "--temperature", "0", "Hello"]) == 0
    streamed = capsys.readouterr().out
    assert main(["ask", *options, "--max-tokens", "8", "--temperature", "0", "--json", "Hello"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] + "\n" == streamed
    assert main(["ask", *options, "--top-p", "3", "Hello"]) == 2
    assert "top_p must be in [0, 1], got 3" in capsys.readouterr().err
    assert main(["health", *options]) == 0
    assert capsys.readouterr().out == "ensemble: ready\nllama_pipeline: ready\n"


def test_the_readme(server, capsys) -> None:
    text = (Path(__file__).resolve().parents[2] / "client" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "localhost:8001" in code
    exec(compile(code.replace("localhost:8001", _settings("grpc", server)["url"]), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith(("stop", "length"))
