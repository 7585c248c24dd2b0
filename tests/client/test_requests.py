"""What goes over the wire, and what is refused before it does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import conch_client
import numpy as np
import pytest
from conch_client import InvalidArgumentError
from fake_servers import Chunk

from conch import contract

ROOT = Path(__file__).resolve().parents[2]

ALL = {
    "max_tokens": 7, "min_tokens": 1, "temperature": 0.5, "top_k": 40, "top_p": 0.25, "min_p": 0.125,
    "repetition_penalty": 1.5, "presence_penalty": -1.0, "frequency_penalty": 2.0, "seed": 2**64 - 1, "end_id": -1,
    "pad_id": 0, "stop_words": ["\n\n", "Ende", "终"], "bad_words": ["böse"], "beam_width": 4,
    "num_return_sequences": 2, "length_penalty": -0.5, "early_stopping": True, "no_repeat_ngram_size": 3,
    "guided_decoding_guide_type": "regex", "guided_decoding_guide": "[ä-ü]+", "lora_task_id": 2**63, "priority": -5,
    "timeout_ms": 30000, "return_num_input_tokens": False, "return_num_output_tokens": False,
    "return_log_probs": True, "return_token_ids": True, "return_perf_metrics": True, "return_context_logits": False,
    "return_generation_logits": False, "exclude_input_in_output": True,
}  # fmt: skip


def test_the_clients_copy_of_the_contract_is_up_to_date() -> None:
    script = ROOT / "build_scripts" / "write_client_contract.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_never_imports_the_library() -> None:
    code = "import sys, conch_client, conch_client.cli, conch_client.http_aio_transport; print('conch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_control_arrives_as_the_contract_says(asker) -> None:
    asker.generate("Grüße\0", request_id="my-id", version=4, headers={"X-Team": "blue"}, **ALL)
    (seen,) = asker.plans.seen
    assert (seen.model, seen.version, seen.request_id, seen.headers["x-team"]) == ("ensemble", "4", "my-id", "blue")
    sent = {"text_input": "Grüße\0", "stream": False, **ALL}
    if asker.is_http:
        assert seen.tensors == sent
        return
    inputs = {t.name: t for t in contract.ENSEMBLE.inputs}
    assert set(seen.tensors) == set(sent)
    for name, (dtype, shape, values) in seen.tensors.items():
        assert dtype == inputs[name].dtype.value
        assert shape == [1, len(values)]
        assert inputs[name].dims in ((1,), (-1,))
        assert values == (sent[name] if isinstance(sent[name], list) else [sent[name]])


def test_every_control_of_the_contract_can_be_sent() -> None:
    assert set(ALL) == {c.name for c in contract.CONTROLS} - {"stream", "stop"} == set(conch_client.CONTROLS)


@pytest.mark.parametrize(
    ("arguments", "kind", "guide"),
    [
        ({"json": True}, "json", None),
        ({"json": False}, None, None),
        ({"json_schema": {"type": "object", "title": "Größe"}}, "json_schema", '{"type": "object", "title": "Größe"}'),
        ({"json_schema": "{}", "regex": None}, "json_schema", "{}"),
        ({"regex": "[0-9]{3}"}, "regex", "[0-9]{3}"),
        ({"grammar": 'root ::= "a"'}, "ebnf_grammar", 'root ::= "a"'),
    ],
)
def test_a_guide_by_its_natural_name(asker, arguments, kind, guide) -> None:
    asker.generate("x", **arguments)
    (seen,) = asker.plans.seen
    sent = seen.tensors if asker.is_http else {name: values[0] for name, (_, _, values) in seen.tensors.items()}
    assert (sent.get("guided_decoding_guide_type"), sent.get("guided_decoding_guide")) == (kind, guide)
    assert contract.GUIDE_TYPES == ("json", "json_schema", "regex", "ebnf_grammar")


def test_cancel_names_the_request_and_nothing_else(asker) -> None:
    asker.call("cancel", "my-id", version=2, headers={"X-Team": "blue"})
    (seen,) = asker.plans.seen
    assert (seen.model, seen.version, seen.request_id, seen.headers["x-team"]) == ("ensemble", "2", "my-id", "blue")
    assert seen.tensors == ({"stop": True} if asker.is_http else {"stop": ("BOOL", [1, 1], [True])})


def test_messages_go_as_json_and_counts_are_asked_for(asker) -> None:
    messages = [{"role": "user", "content": 'Ω says "hi"\n'}]
    asker.stream(messages=messages, stop_words=[], seed=None, max_tokens=np.int64(5), temperature=np.float32(0.5))
    (seen,) = asker.plans.seen
    tensors = seen.tensors if asker.is_http else {name: values[0] for name, (_, _, values) in seen.tensors.items()}
    assert json.loads(tensors.pop("messages")) == messages
    assert tensors == {
        "max_tokens": 5, "temperature": 0.5, "stream": True, "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }  # fmt: skip


def test_the_classic_ensemble_has_names_of_its_own(asker) -> None:
    asker.plans.plans = [[Chunk("Tritonshorn", "stop")]]
    answer = asker.generate("x", model="llama_pipeline")
    (seen,) = asker.plans.seen
    assert answer.text == "Tritonshorn"
    assert "INPUT_TEXT" in seen.tensors
    assert "text_input" not in seen.tensors


def test_a_model_name_cannot_leave_its_path() -> None:
    from conch_client.http_wire import model_path

    assert model_path("../x?y#z/a", "") == "/v2/models/..%2Fx%3Fy%23z%2Fa"


def test_an_unknown_keyword_is_a_type_error_that_names_the_nearest(asker) -> None:
    with pytest.raises(TypeError, match="'max_token'; did you mean 'max_tokens'"):
        asker.generate("x", max_token=5)
    with pytest.raises(TypeError, match="'mesages'; did you mean 'messages'"):
        asker.generate(mesages=[])
    with pytest.raises(TypeError, match=r"'zzz'$"):
        asker.stream("x", zzz=1)
    with pytest.raises(TypeError, match=r"call stream\(\)"):
        asker.generate("x", stream=True)
    with pytest.raises(TypeError, match=r"call cancel\(request_id\)"):
        asker.generate("x", stop=True)
    with pytest.raises(TypeError, match="'json_shema'; did you mean 'json_schema'"):
        asker.generate("x", json_shema={})
    assert asker.plans.seen == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"json": 1.5}, "json must be True or False, got 1.5"),
        ({"json_schema": ["x"]}, "json_schema must be a mapping or JSON text, got ['x']"),
        ({"json_schema": {"x": math.nan}}, "json_schema must be JSON: Out of range float values are not JSON"),
        ({"regex": 3}, "regex must be a string, got 3"),
        ({"json": True, "grammar": "x"}, "at most one guide may be given, got json and grammar"),
        ({"regex": "x", "guided_decoding_guide_type": "json"},
         "at most one guide may be given, got regex and guided_decoding_guide_type"),
        ({"max_tokens": "5"}, "max_tokens must be an integer, got '5'"),
        ({"max_tokens": 5.0}, "max_tokens must be an integer, got 5.0"),
        ({"max_tokens": True}, "max_tokens must be an integer, got True"),
        ({"max_tokens": 2**31}, "max_tokens must be in [-2147483648, 2147483647], got 2147483648"),
        ({"seed": -1}, "seed must be in [0, 18446744073709551615], got -1"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": math.nan}, "temperature must be a finite number, got nan"),
        ({"temperature": -math.inf}, "temperature must be a finite number, got -inf"),
        ({"top_p": 1e39}, "top_p must fit a 32-bit float, got 1e+39"),
        ({"exclude_input_in_output": 1}, "exclude_input_in_output must be True or False, got 1"),
        ({"stop_words": "END"}, "stop_words must be a list of strings, got 'END'"),
        ({"stop_words": ["a", 3]}, "stop_words[1] must be a string, got 3"),
        ({"stop_words": ["\ud800"]}, "stop_words[0] must be valid Unicode, got a lone surrogate"),
        ({"prompt": b"x"}, "prompt must be a string, got b'x'"),
        ({"prompt": None}, "exactly one of prompt and messages must be given, got neither"),
        ({"messages": []}, "exactly one of prompt and messages must be given, got both"),
        ({"prompt": None, "messages": "hi"}, "messages must be a list of {role, content}, got 'hi'"),
        ({"prompt": None, "messages": ["hi"]}, "messages[0] must be a mapping with role and content, got 'hi'"),
        ({"prompt": None, "messages": [{"content": {1, 2}}]}, "messages must be JSON"),
        ({"version": "latest"}, "version must be a number, got 'latest'"),
        ({"request_id": ""}, "request_id must not be empty"),
        ({"timeout_s": 0}, "timeout_s must be > 0, got 0"),
        ({"timeout_s": math.nan}, "timeout_s must be > 0, got nan"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(arguments, message) -> None:
    with conch_client.Client("127.0.0.1:1") as client, pytest.raises(InvalidArgumentError) as caught:
        client.stream(**{"prompt": "x", **arguments})
    assert message in caught.value.message
    assert caught.value.code == "INVALID_ARGUMENT"
    assert not caught.value.retryable


SECRET = "Bearer s3cr3t"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"authorization": f"{SECRET}\n"},
         "header authorization must be of printable ASCII characters, got '\\n' at position 13"),
        ({"x-key": f"{SECRET} é"}, "header x-key must be of printable ASCII characters, got '\\xe9' at position 14"),
        ({"x-key": f"{SECRET} \ud800"},
         "header x-key must be of printable ASCII characters, got '\\ud800' at position 14"),
        ({"x-key": SECRET.encode()}, "header x-key must be a string, got bytes"),
        ({"x key": SECRET}, "name of a header must be of letters, digits, '-', '_' and '.', got ' ' after 'x'"),
        ({":path": SECRET}, "name of a header must be of letters, digits, '-', '_' and '.', got ':' after ''"),
        ({"x-key-Bin": SECRET}, "name of a header must not end in -bin, where gRPC takes bytes, got 'x-key-Bin'"),
        ({"": SECRET}, "name of a header must be a string and not empty, got ''"),
        ({3: SECRET}, "name of a header must be a string and not empty, got 3"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be(asker, headers, message) -> None:
    for ask in (
        lambda: asker.generate("x", headers=headers),
        lambda: asker.call("health", client={"headers": headers}),
        lambda: asker.call("cancel", "id", headers=headers),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            ask()
        assert caught.value.message == message
    assert asker.plans.seen == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("\ud800", "model must be valid Unicode, got a lone surrogate"), (5, "model must be a string, got 5"),
        ("", "model must be a name, got ''"), ("..", "model must be a name, got '..'"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be(asker, model, message) -> None:
    for ask in (
        lambda: asker.generate("x", model=model),
        lambda: asker.call("cancel", "id", model=model),
        lambda: asker.call("health", client={"model": model}),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            ask()
        assert caught.value.message == message
    assert asker.plans.seen == []


@pytest.mark.parametrize("timeout_s", [1e7, 1e12, 1e300])
def test_more_time_than_a_socket_can_wait(asker, timeout_s) -> None:
    assert asker.generate("x", timeout_s=timeout_s).text == "ok"


@pytest.mark.parametrize("host", ["a..b", "a b", "x" * 64])
def test_a_host_that_cannot_be(host, monkeypatch) -> None:
    for kind in (conch_client.Client, conch_client.HttpClient):
        with pytest.raises(InvalidArgumentError, match=f"the host of url must be a name or an address, got '{host}'"):
            kind(f"{host}:1")
        monkeypatch.setenv("CONCH_HOST", host)
        with pytest.raises(InvalidArgumentError, match=f"the host of CONCH_HOST must be a name .*, got '{host}'"):
            kind()
        monkeypatch.delenv("CONCH_HOST")
    with pytest.raises(InvalidArgumentError, match="the path of url must be percent-encoded ASCII"):
        conch_client.HttpClient("http://h:1/a b")


@pytest.mark.parametrize("url", ["ftp://h:1", "h:99999", "h:x", "", "h:1/path", "u:p@h:1", "[::1", "http://h"])
def test_a_bad_address_is_an_error(url) -> None:
    with pytest.raises(InvalidArgumentError, match="url must"):
        conch_client.Client(url)


def test_addresses(monkeypatch) -> None:
    from conch_client.address import grpc_address, http_address, metrics_address

    for name in ("CONCH_HOST", "CONCH_GRPC_PORT", "CONCH_HTTP_PORT", "CONCH_METRICS_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert str(grpc_address(None, None)) == "127.0.0.1:8001"
    assert str(http_address(None, None)) == "127.0.0.1:8000"
    assert str(http_address("example.org", None)) == "example.org:8000"
    assert str(grpc_address("[::1]:5", None)) == "[::1]:5"
    assert str(grpc_address("büro:5", None)) == "xn--bro-hoa:5"
    assert grpc_address("grpcs://h:5", None).tls == conch_client.Tls()
    assert http_address("https://h:5/triton/", None).path == "/triton"
    assert str(metrics_address(None, grpc_address("far:1", None))) == "far:8002"
    monkeypatch.setenv("CONCH_HOST", "0.0.0.0")
    monkeypatch.setenv("CONCH_GRPC_PORT", "9001")
    monkeypatch.setenv("CONCH_METRICS_PORT", "9002")
    assert str(grpc_address(None, None)) == "127.0.0.1:9001"
    assert str(metrics_address(None, grpc_address(None, None))) == "127.0.0.1:9002"
    monkeypatch.setenv("CONCH_GRPC_PORT", "many")
    with pytest.raises(InvalidArgumentError, match=r"CONCH_GRPC_PORT must be a port in \[1, 65535\], got 'many'"):
        grpc_address(None, None)
