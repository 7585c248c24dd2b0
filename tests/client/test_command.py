"""The command `conch`."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conch_client import CancelledError, Retry, Stream
from conch_client.cli import main
from conch_client.request import build_stop
from conch_client.retry import Deadline
from conch_client.streams import Call
from conch_client.terminal import Screen
from fake_servers import Chunk, Endless, Fail, GrpcServer, Hang, HttpServer, Refuse


@pytest.fixture(params=["grpc", "http"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[GrpcServer | HttpServer]:
    server = GrpcServer() if request.param == "grpc" else HttpServer()
    monkeypatch.setenv("CONCH_HOST", "127.0.0.1")
    monkeypatch.setenv(f"CONCH_{request.param.upper()}_PORT", str(server.port))
    server.protocol = ["--protocol", request.param]
    yield server
    server.close()


def run(*arguments: str) -> int:
    """Exit code; argparse's own exits too."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


def tensors(server, number: int = -1) -> dict[str, object]:
    found = server.plans.seen[number].tensors
    return {
        name: (value[2] if name == "stop_words" else value[2][0]) if isinstance(value, tuple) else value
        for name, value in found.items()
    }


def test_ask_sends_a_chat_and_streams(server, capsys) -> None:
    server.plans.plans = [[Chunk("Hel"), Chunk("lo 🐚", "stop")]]
    stops = ["--stop-words", "a", "--stop-words", "b"]
    code = run("ask", *server.protocol, "Hi", "--system", "Be kind", "--max-tokens", "9", *stops)
    assert (code, capsys.readouterr().out) == (0, "Hello 🐚\n")
    sent = tensors(server)
    assert json.loads(sent["messages"]) == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi"},
    ]
    assert (sent["stream"], sent["max_tokens"], sent["stop_words"]) == (True, 9, ["a", "b"])


def test_ask_raw_from_standard_input_as_json(server, capsys, monkeypatch) -> None:
    server.plans.plans = [[Chunk("Hello", "length", 2, 3)]]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Grüße\n".encode())))
    assert run("ask", *server.protocol, "--raw", "--json", "--temperature", "0.5", "-") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.pop("request_id") == server.plans.seen[0].request_id
    assert answer == {
        "text": "Hello", "finish_reason": "length", "num_input_tokens": 3, "num_output_tokens": 2, "model_version": "3",
    }  # fmt: skip
    sent = tensors(server)
    assert (sent["text_input"], sent["stream"], sent["temperature"]) == ("Grüße\n", False, 0.5)
    assert "messages" not in sent


def test_ask_whole(server, capsys) -> None:
    assert run("ask", *server.protocol, "--no-stream", "--model", "llama_pipeline", "--model-version", "2", "Hi") == 0
    assert capsys.readouterr().out == "ok\n"
    assert (server.plans.seen[0].model, server.plans.seen[0].version) == ("llama_pipeline", "2")


def test_ask_for_what_follows_a_guide(server, capsys, tmp_path) -> None:
    guides = (("--json-schema", "json_schema", '{"type": "object"}'), ("--grammar", "ebnf_grammar", "ä"))
    for option, kind, text in guides:
        file = tmp_path / kind
        file.write_text(text, encoding="utf-8")
        assert run("ask", *server.protocol, option, str(file), "Hi") == 0
        sent = tensors(server)
        assert (sent["guided_decoding_guide_type"], sent["guided_decoding_guide"]) == (kind, text)
    assert run("ask", *server.protocol, "--regex", "a+", "Hi") == 0
    assert tensors(server)["guided_decoding_guide"] == "a+"
    capsys.readouterr()
    assert run("ask", *server.protocol, "--regex", "a+", "--grammar", str(file), "Hi") == 2
    assert "not allowed with argument --regex" in capsys.readouterr().err
    assert run("ask", *server.protocol, "--json-schema", str(tmp_path / "no"), "Hi") == 2
    assert f"conch: json_schema must be a file that can be read, got '{tmp_path}/no'" in capsys.readouterr().err


def test_ask_for_many_answers(server, capsys) -> None:
    server.plans.plans = [[Chunk(["one", "two"], ["stop", "length"])]]
    assert run("ask", *server.protocol, "--n", "2", "--temperature", "1", "Hi") == 0
    assert capsys.readouterr().out == "[1] one\n[2] two\n"
    sent = tensors(server)
    assert (sent["num_return_sequences"], sent["stream"]) == (2, False)
    options = ["--beam-width", "2", "--early-stopping", "--return-log-probs", "--json"]
    assert run("ask", *server.protocol, *options, "Hi") == 0
    assert json.loads(capsys.readouterr().out)["alternatives"][0]["text"] == "two"
    sent = tensors(server)
    assert (sent["beam_width"], sent["early_stopping"], sent["return_log_probs"]) == (2, True, True)


@pytest.mark.parametrize(
    ("plan", "arguments", "code", "text"),
    [
        ([Refuse(404, "Request for unknown model: 'nope' is not found")], ["ask", "Hi"], 1,
         "conch: Request for unknown model: 'nope' is not found\n"),
        ([Fail("top_p must be in [0, 1],\n got 3")], ["ask", "Hi"], 2,
         "conch: top_p must be in [0, 1], got 3\n"),
        ([Chunk("Hel"), Fail("internal error")], ["ask", "Hi"], 1, "conch: internal error\n"),
        ([], ["ask", "Hi", "--max-tokens", "many"], 2,
         "conch ask: argument --max-tokens: invalid int value: 'many' (see conch ask --help)\n"),
        ([], ["ask", "Hi", "--max-tok", "1"], 2, "conch: unrecognized arguments: --max-tok 1 (see conch --help)\n"),
        ([], ["ask"], 2, "conch ask: the following arguments are required: PROMPT (see conch ask --help)\n"),
        ([], [], 2, "conch: the following arguments are required: COMMAND (see conch --help)\n"),
        ([], ["ask", "Hi", "--seed", "-1"], 2, "conch: seed must be in [0, 18446744073709551615], got -1\n"),
        ([], ["ask", "Hi", "--raw", "--system", "x"], 2,
         "conch: system must not be given with --raw: there is no chat then\n"),
        ([], ["ask", "Hi", "--timeout-s", "0"], 2, "conch: timeout_s must be > 0, got 0.0\n"),
        ([], ["ask", "Hi", "--header", "x"], 2, "conch: header must be NAME:VALUE, got no colon\n"),
        ([], ["ask", "Hi", "--header", "Bearer of:secrets"], 2,
         "conch: name of a header must be of letters, digits, '-', '_' and '.', got ' ' after 'Bearer'\n"),
        ([], ["ask", "Hi", "--ca-file", "no.pem"], 2,
         "conch: ca_file must be a file that can be read, got 'no.pem': No such file or directory\n"),
        ([], ["ask", "\ud800"], 2, "conch: messages must be valid Unicode, got a lone surrogate\n"),
        ([], ["ask", "Hi", "--model", "\ud800"], 2, "conch: model must be valid Unicode, got a lone surrogate\n"),
        ([], ["ask", ""], 2, "conch: prompt must not be empty, got ''\n"),
        ([], ["ask", "--raw", " \n"], 2, "conch: prompt must not be empty, got ' \\n'\n"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(server, capsys, plan, arguments, code, text) -> None:
    server.plans.plans = [plan]
    protocol = server.protocol if arguments[:1] == ["ask"] else []
    assert run(*arguments, *protocol) == code
    assert capsys.readouterr().err == text


def test_a_server_that_is_down(server, capsys) -> None:
    server.close()
    for command in (["ask", "Hi"], ["models"]):
        assert run(*command, *server.protocol) == 1
        assert capsys.readouterr().err == f"conch: cannot reach {server.url}: Connection refused\n"
    assert run("health", *server.protocol) == 1
    assert capsys.readouterr().err == f"conch: not live: cannot reach {server.url}: Connection refused\n"


def test_health_models_metrics(server, capsys) -> None:
    assert run("health", *server.protocol) == 0
    assert capsys.readouterr().out == "ensemble: ready\nllama_pipeline: ready\n"
    server.plans.ready_models = ("ensemble",)
    server.plans.ready = False
    assert run("health", *server.protocol) == 1
    out = capsys.readouterr().out
    assert "llama_pipeline: not ready\n" in out
    assert "the server as a whole: not ready" in out
    assert run("health", "--json", *server.protocol) == 1
    assert json.loads(capsys.readouterr().out)["models"] == {"ensemble": True, "llama_pipeline": False}
    assert run("models", *server.protocol) == 0
    assert capsys.readouterr().out.splitlines()[1] == "llama_pipeline    1  UNAVAILABLE  unloaded"
    metrics = HttpServer()
    assert run("metrics", *server.protocol, "--metrics-url", metrics.url) == 0
    assert 'nv_inference_request_success{model="ensemble",version="1"} 9\n' in capsys.readouterr().out
    metrics.close()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"5", b"{}", b'["x"]', b'[{"n": 1}]', b"\xff"])
def test_models_of_something_else_than_triton(body, monkeypatch, capsys) -> None:
    server = HttpServer()
    monkeypatch.setattr("fake_servers._Handler.do_POST", lambda handler: handler._send(200, body))
    assert run("models", "--url", f"http://{server.url}") == 1
    server.close()
    assert capsys.readouterr().err == (
        f"conch: the server's list of models must be a JSON list of objects, got {body!r}\n"
    )


def test_chat_keeps_the_history(server, capsys, monkeypatch) -> None:
    server.plans.plans = [
        [Chunk("Hello")], [Fail("internal error")], [Chunk("Again")], [Chunk("New")], [Chunk("Aye")],
    ]  # fmt: skip
    lines = ["Hi", "Broken", "More", "/reset", "Fresh", "", "/nope", "/system Be a pirate", "Ahoy"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    assert run("chat", *server.protocol, "--top-k", "1") == 0
    captured = capsys.readouterr()
    assert captured.out == "Hello\nAgain\nNew\nAye\n"
    assert captured.err == "conch: internal error\nno such command: /nope (see /help)\n"
    sent = [json.loads(tensors(server, i)["messages"]) for i in range(5)]
    assert [[m["content"] for m in messages] for messages in sent] == [
        ["Hi"], ["Hi", "Hello", "Broken"], ["Hi", "Hello", "More"], ["Fresh"], ["Be a pirate", "Ahoy"],
    ]  # fmt: skip
    assert [m["role"] for m in sent[2]] == ["user", "assistant", "user"]
    assert sent[4][0]["role"] == "system"
    assert tensors(server)["top_k"] == 1


def test_chat_goes_on_after_a_line_that_is_not_utf8(server, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hi\nGr\xfc\xdfe\nMore\n"), encoding="utf-8"))
    assert run("chat", *server.protocol) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("ok\nok\n", "conch: a line must be UTF-8, got b'Gr\\xfc\\xdfe'\n")
    assert [m["content"] for m in json.loads(tensors(server)["messages"])] == ["Hi", "ok", "More"]


def test_a_disk_that_is_full() -> None:
    server = HttpServer()
    for command in (["ask", "Hi"], ["models"]):
        with open("/dev/full", "wb") as full:  # noqa: PTH123
            program = [sys.executable, "-m", "conch_client", *command, "--url", f"http://{server.url}"]
            done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, timeout=20)
        errors = b"conch: standard input or output broke: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, errors)
    server.close()


def test_the_standard_files_may_be_closed() -> None:
    command = f'"{sys.executable}" -m conch_client ask - <&- 2>&1 >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"conch: prompt must not be empty, got ''\n")


def test_the_second_ctrl_c_ends_what_hears_no_cancel() -> None:
    """As a connection that is being made to a host that says nothing."""

    def connect() -> Call:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    stream = Stream(connect, build_stop("ensemble", None, "r"), Deadline(None), Retry())
    with pytest.raises(CancelledError, match="cancelled by the caller"):
        Screen().answer(stream)
    assert stream.is_cancelled
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Terminal:
    """What a person at a terminal sees and types."""

    def __init__(self, master: int) -> None:
        self.master = master
        self._unread = b""

    def read_until(self, wanted: bytes, timeout_s: float = 20) -> bytes | None:
        """Everything up to `wanted`; None if it did not come."""
        while wanted not in self._unread:
            if not select.select([self.master], [], [], timeout_s)[0]:
                return None
            self._unread += os.read(self.master, 65536)
        seen, found, self._unread = self._unread.partition(wanted)
        return seen + found

    def type(self, text: bytes) -> None:
        os.write(self.master, text)


def test_ctrl_c_stops_the_answer_and_not_the_program(server) -> None:
    server.plans.plans = [[Endless()], [Chunk("\x1b[2Jsafe", "stop")]]
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "conch_client", "chat", *server.protocol]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as chat:
        os.close(terminal)
        person = Terminal(master)
        assert person.read_until(b"> ")
        person.type(b"Hi\n")
        assert person.read_until(b"xx")
        chat.send_signal(signal.SIGINT)
        assert person.read_until(b"> ")
        assert server.plans.given_up.wait(5)
        # At the prompt: a new prompt, no more. Python may miss one that comes just before it waits for a key.
        for _ in range(20):
            chat.send_signal(signal.SIGINT)
            if person.read_until(b"> ", timeout_s=1):
                break
        else:
            pytest.fail("no new prompt")
        person.type(b"Go on\n")
        shown = person.read_until(b"safe")
        assert shown is not None
        assert b"\x1b[2J" not in shown, "a model must not drive the terminal"
        assert person.read_until(b"> ")
        person.type(b"\x04")
        assert chat.wait(10) == 0
    os.close(master)
    roles = [m["role"] for m in json.loads(tensors(server)["messages"])]
    assert roles == ["user", "assistant", "user"]


def test_ctrl_c_ends_ask(server) -> None:
    server.plans.plans = [[Endless()]]
    command = [sys.executable, "-m", "conch_client", "ask", "Hi", *server.protocol]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ask:
        ask.stdout.read(3)
        ask.send_signal(signal.SIGINT)
        ask.stdout.read()
        errors = ask.stderr.read()
        assert (ask.wait(10), errors) == (130, b"")
    assert server.plans.given_up.wait(5)


def test_ctrl_c_ends_a_whole_answer_too(server) -> None:
    server.plans.plans = [[Hang()], [Chunk("", "cancelled")]]
    command = [sys.executable, "-m", "conch_client", "ask", "--no-stream", "Hi", *server.protocol]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ask:
        assert server.plans.arrived.wait(10)
        ask.send_signal(signal.SIGINT)
        output, errors = ask.communicate(timeout=10)
    assert (ask.returncode, output, errors) == (130, b"", b"")
    first, second = server.plans.seen
    assert (list(second.tensors), second.request_id) == (["stop"], first.request_id)


def test_a_pipe_that_closes_is_no_traceback(server) -> None:
    server.plans.plans = [[Endless()]]
    command = [sys.executable, "-m", "conch_client", "ask", "Hi", *server.protocol]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ask:
        ask.stdout.read(3)
        ask.stdout.close()
        errors = ask.stderr.read()
        assert (ask.wait(10), errors) == (1, b"")
    assert server.plans.given_up.wait(5)


def test_metrics_in_short(server, capsys) -> None:
    metrics = HttpServer()
    try:
        assert run("metrics", "--short", "--metrics-url", f"127.0.0.1:{metrics.port}") == 0
    finally:
        metrics.close()
    assert capsys.readouterr().out == "no metrics of an engine\n"
