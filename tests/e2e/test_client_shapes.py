"""Known clients of Triton: each request as that client builds it, each answer as that client reads it.

What they send was read in their sources. Where a client has a model name of its own to choose, docs/contract.md says
which of ours fits.
"""

from __future__ import annotations

import http.client
import json
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from server_processes import Server
from triton_calls import TIMEOUT_S, assert_clean
from tritonclient import grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from conch.contract import ENSEMBLE, ENSEMBLE_SINGLE, ENSEMBLE_U32, UNARY, UNARY_SCALAR, UNARY_U32

pytestmark = pytest.mark.e2e

PROMPT = "The capital of France is"
ANSWER = "Paris"
ALL = (ENSEMBLE.name, ENSEMBLE_SINGLE.name, ENSEMBLE_U32.name, UNARY.name, UNARY_U32.name, UNARY_SCALAR.name)


def post(server: Server, path: str, body: Any) -> tuple[int, str]:
    """Status and body of an HTTP answer."""
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"/v2/models/{path}", body=json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def post_well(server: Server, path: str, body: Any) -> Any:
    """The JSON of an answer."""
    status, text = post(server, path, body)
    assert status == 200, text
    return json.loads(text)


def events(text: str) -> list[Any]:
    """The JSON of each event of a stream."""
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line]


def tensor(name: str, dtype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": dtype, "shape": shape, "data": data}


@contextmanager
def triton_client(server: Server) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as client:
        yield client


def grpc_input(name: str, array: Any) -> triton_grpc.InferInput:
    made = triton_grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


class StreamReader:
    """As LangChain's and LlamaIndex's callback: text into a queue, None at the end."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()
        self.messages: list[dict[str, Any]] = []

    def __call__(self, result: triton_grpc.InferResult | None, error: Exception | None) -> None:
        if error is not None:
            self.queue.put(error)
            return
        assert result is not None
        response = result.get_response(as_json=True)
        self.messages.append(response)
        if "outputs" in response:
            # Iterated over as it is: with a dimension for the row there would be arrays, which have no decode().
            self.queue.put("".join(token.decode() for token in result.as_numpy("text_output")))
        if response["parameters"]["triton_final_response"].get("bool_param"):
            self.queue.put(None)

    def pieces(self) -> list[str]:
        """Until the end of the stream."""
        found: list[str] = []
        while (item := self.queue.get(timeout=TIMEOUT_S)) is not None:
            if isinstance(item, Exception):
                raise item
            found.append(item)
        return found


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("model", "integer"), [(ENSEMBLE_U32.name, np.uint32), (ENSEMBLE.name, np.int32)])
def test_langchain_and_llama_index(server: Server, model: str, integer: Any, stream: bool) -> None:
    inputs = [
        grpc_input("text_input", np.array([[PROMPT]]).astype(object)),
        grpc_input("max_tokens", np.array([8]).astype(integer).reshape((1, -1))),
        grpc_input("top_k", np.array([1]).astype(integer).reshape((1, -1))),
        grpc_input("top_p", np.array([0]).astype(np.float32).reshape((1, -1))),
        grpc_input("temperature", np.array([1.0]).astype(np.float32).reshape((1, -1))),
        grpc_input("length_penalty", np.array([1.0]).astype(np.float32).reshape((1, -1))),
        grpc_input("repetition_penalty", np.array([1.0]).astype(np.float32).reshape((1, -1))),
        grpc_input("random_seed", np.array([42]).astype(np.uint64).reshape((1, -1))),
        grpc_input("beam_width", np.array([1]).astype(integer).reshape((1, -1))),
        grpc_input("stream", np.array([[stream]], dtype=bool)),
    ]
    stop_signal = [
        grpc_input("input_ids", np.empty([1, 1], dtype=np.int32)),
        grpc_input("input_lengths", np.zeros([1, 1], dtype=np.int32)),
        grpc_input("request_output_len", np.array([[0]], dtype=np.uint32)),
        grpc_input("stop", np.array([[True]], dtype="bool")),
    ]
    reader = StreamReader()
    with triton_client(server) as client:
        assert client.is_model_ready(model)
        client.start_stream(callback=reader)
        wanted = [triton_grpc.InferRequestedOutput("text_output")]
        client.async_stream_infer(model_name=model, inputs=inputs, outputs=wanted, request_id="4711")
        pieces = reader.pieces()
        assert ANSWER in "".join(pieces)
        assert len(pieces) > 1 if stream else len(pieces) == 1
        # What they send when they have read enough. They do not read what comes back.
        client.async_stream_infer(model, stop_signal, request_id="4711", parameters={"Streaming": True})
        client.stop_stream()
        assert_clean(str(reader.queue.get(timeout=TIMEOUT_S)))
        assert client.is_model_ready(model)


@pytest.mark.parametrize("stream", [False, True])
def test_litellm_generate(server: Server, stream: bool) -> None:
    body = {
        "text_input": PROMPT,
        "parameters": {"max_tokens": 8, "bad_words": [""], "stop_words": [""]},
        "stream": stream,
    }
    path = f"{ENSEMBLE.name}/generate" + ("_stream" if stream else "")
    status, text = post(server, path, body)
    assert status == 200, text
    chunks = events(text) if stream else [json.loads(text)]
    assert ANSWER in "".join(chunk["text_output"] for chunk in chunks)


def test_litellm_infer(server: Server) -> None:
    body = {
        "inputs": [
            tensor("text_input", "BYTES", [1], [PROMPT]),
            tensor("temperature", "FP32", [1], [0.0]),
            tensor("stop_words", "BYTES", [1], ["no such words"]),
            tensor("max_tokens", "INT32", [1], [20]),
        ]
    }
    outputs = post_well(server, f"{UNARY_SCALAR.name}/infer", body)["outputs"]
    assert ANSWER in "".join(outputs[0]["data"])


def test_fireworks_triton_infer(server: Server) -> None:
    body = {
        "inputs": [
            tensor("text_input", "BYTES", [1, 1], [[PROMPT]]),
            tensor("max_tokens", "UINT32", [1, 1], [[8]]),
            tensor("bad_words", "BYTES", [1, 1], [[""]]),
            tensor("stop_words", "BYTES", [1, 1], [[""]]),
            tensor("temperature", "FP32", [1, 1], [[0.0]]),
        ]
    }
    (text,) = [o for o in post_well(server, f"{UNARY_U32.name}/infer", body)["outputs"] if o["name"] == "text_output"]
    assert (text["datatype"], text["shape"]) == ("BYTES", [1])
    assert ANSWER in text["data"][0]


@pytest.mark.parametrize("model", ALL[:4])
@pytest.mark.parametrize("words", ["", "no such words", [""], ["no such", "words"]])
def test_fireworks_triton_generate_and_lists(server: Server, model: str, words: Any) -> None:
    body = {"text_input": PROMPT, "max_tokens": 8, "stream": False, "temperature": 0.0, "bad_words": ""}
    assert ANSWER in post_well(server, f"{model}/generate", {**body, "stop_words": words})["text_output"]


def test_vllm_benchmark(server: Server) -> None:
    body = {
        "accumulate_tokens": True, "text_input": PROMPT, "temperature": 0.0, "top_p": 1.0, "max_tokens": 8,
        "stream": True,
    }  # fmt: skip
    status, text = post(server, f"{ENSEMBLE.name}/generate_stream", body)
    assert status == 200, text
    assert ANSWER in "".join(event["text_output"] for event in events(text))


def ask_as_nvidia(
    server: Server, stream: bool, prompts: list[str], flags: dict[str, Any], outputs: Sequence[str] = ()
) -> list[str]:
    """As end_to_end_grpc_client.py of tensorrtllm_backend, with --temperature 0: the texts that it prints.

    Args:
        prompts: more than one: with --batch-inputs.
        flags: further inputs; value of each row.
        outputs: further outputs.
    """
    inputs: dict[str, Any] = {
        "text_input": np.array([[prompt] for prompt in prompts]).astype(object),
        "max_tokens": np.array([[8]], np.int32), "stream": np.array([[stream]]),
        "beam_width": np.array([[1]], np.int32), "temperature": np.array([[0.0]], np.float32),
        "exclude_input_in_output": np.array([[False]]), **{n: np.array([[value]]) for n, value in flags.items()},
    }  # fmt: skip
    rows = len(prompts)
    tensors = [grpc_input(name, np.concatenate([a] * rows) if len(a) < rows else a) for name, a in inputs.items()]
    wanted = [triton_grpc.InferRequestedOutput(name) for name in ("text_output", *outputs)]
    results: queue.Queue[Any] = queue.Queue()
    with triton_client(server) as client:
        client.start_stream(callback=lambda result, error: results.put(error or result))
        client.async_stream_infer(ENSEMBLE.name, tensors, outputs=wanted, request_id="")
        client.stop_stream()
    texts = [""] * rows
    while not results.empty():
        result = results.get()
        if isinstance(result, Exception):
            raise result
        row = result.as_numpy("batch_index")
        texts[0 if row is None else row[0][0]] += result.as_numpy("text_output")[0].decode("utf-8")
    return texts


@pytest.mark.parametrize("stream", [False, True])
def test_nvidia_end_to_end_grpc_client(server: Server, stream: bool) -> None:
    begins = "" if stream else PROMPT
    (plain,) = ask_as_nvidia(server, stream, [PROMPT], {})
    assert plain.startswith(begins)
    assert ANSWER in plain.removeprefix(begins)
    flags = {"return_log_probs": True, "end_id": np.int32(-1), "repetition_penalty": np.float32(1)}
    assert ask_as_nvidia(server, stream, [PROMPT], flags, ["cum_log_probs", "output_log_probs"])[0].startswith(begins)


def test_nvidia_end_to_end_grpc_client_with_rows(server: Server) -> None:
    paris, rome = ask_as_nvidia(server, True, [PROMPT, "The capital of Italy is"], {}, ["batch_index"])
    assert ANSWER in paris
    assert "Rome" in rome


@pytest.mark.parametrize(
    ("flags", "outputs", "named"),
    [
        ({"num_return_sequences": np.int32(2)}, ["sequence_index"], "'sequence_index'"),
        ({"return_perf_metrics": True}, ["kv_cache_alloc_new_blocks"], "'kv_cache_alloc_new_blocks'"),
        ({"return_context_logits": True}, ["context_logits"], "'context_logits'"),
        ({"return_context_logits": True}, [], "return_context_logits is not supported"),
        ({"embedding_bias_weights": np.float32(1)}, [], "'embedding_bias_weights'"),
    ],
)
def test_what_nvidia_s_client_is_not_served_is_named(
    server: Server, flags: dict[str, Any], outputs: list[str], named: str
) -> None:
    with pytest.raises(InferenceServerException, match=named):
        ask_as_nvidia(server, False, [PROMPT], flags, outputs)


def test_genai_perf(server: Server) -> None:
    with triton_client(server) as client:
        metadata = client.get_model_metadata(ENSEMBLE.name, as_json=True)
        dtypes = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
        assert dtypes["max_tokens"] == "INT32"
        inputs = [
            grpc_input("text_input", np.array([[PROMPT]], object)),
            grpc_input("max_tokens", np.array([[8]], np.int32)),
            grpc_input("min_length", np.array([[8]], np.int32)),
            grpc_input("stream", np.array([[True]])),
            grpc_input("exclude_input_in_output", np.array([[True]])),
        ]
        results: queue.Queue[Any] = queue.Queue()
        client.start_stream(callback=lambda result, error: results.put(error or result))
        client.async_stream_infer(ENSEMBLE.name, inputs, enable_empty_final_response=True)
        text, final = "", False
        while not final:
            result = results.get(timeout=TIMEOUT_S)
            assert not isinstance(result, Exception), result
            final = result.get_response().parameters["triton_final_response"].bool_param
            array = result.as_numpy("text_output")
            text += "" if array is None else array.reshape(-1)[0].decode()
        assert ANSWER in text


def test_triton_openai_frontend(server: Server) -> None:
    """It asks in the server's process; over gRPC the tensors are the same."""
    inputs = [
        grpc_input("text_input", np.array([[PROMPT]], object)),
        grpc_input("stream", np.array([[False]])),
        grpc_input("max_tokens", np.int32([[16]])),
        grpc_input("stop_words", np.array([["no such", "words"]], object)),
        grpc_input("top_p", np.float32([[1.0]])),
        grpc_input("frequency_penalty", np.float32([[0.0]])),
        grpc_input("presence_penalty", np.float32([[0.0]])),
        grpc_input("seed", np.uint64([[3]])),
        grpc_input("temperature", np.float32([[0.0]])),
        grpc_input("return_num_input_tokens", np.bool_([[True]])),
        grpc_input("return_num_output_tokens", np.bool_([[True]])),
    ]
    results: queue.Queue[Any] = queue.Queue()
    with triton_client(server) as client:
        client.start_stream(callback=lambda result, error: results.put(error or result))
        client.async_stream_infer(ENSEMBLE.name, inputs)
        first = results.get(timeout=TIMEOUT_S)
        assert not isinstance(first, Exception), first
        assert first.get_response().parameters["triton_final_response"].bool_param
        (text,) = first.as_numpy("text_output").reshape(-1)  # exactly one string, all of the answer
        assert ANSWER in text.decode()
        assert first.as_numpy("num_output_tokens").reshape(-1)[0] == 16
        assert first.as_numpy("num_input_tokens").reshape(-1)[0] == 5


def test_unary_grpc(server: Server) -> None:
    with triton_client(server) as client:
        inputs = [
            grpc_input("text_input", np.array([[PROMPT], ["2 + 2 ="]], object)),
            grpc_input("max_tokens", np.array([[8], [4]], np.int32)),
            grpc_input("return_num_output_tokens", np.array([[True], [True]])),
        ]
        result = client.infer(UNARY.name, inputs)
        assert ANSWER in result.as_numpy("text_output")[0].decode()
        assert result.as_numpy("num_output_tokens").tolist() == [[8], [4]]


def test_an_infer_request_may_ask_for_the_text_alone(server: Server) -> None:
    body = {
        "inputs": [tensor("text_input", "BYTES", [1, 1], [PROMPT]), tensor("max_tokens", "INT32", [1, 1], [8])],
        "outputs": [{"name": "text_output"}],
    }
    assert [o["name"] for o in post_well(server, f"{UNARY.name}/infer", body)["outputs"]] == ["text_output"]


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_input": PROMPT, "max_tokens": 0}, "max_tokens must be"),
        ({"text_input": ""}, "text_input must not be empty"),
        ({"max_tokens": 4}, "exactly one of text_input and messages must be given, got neither"),
        ({"text_input": PROMPT, "max_token": 4}, "unknown field max_token; did you mean max_tokens?"),
        ({"text_input": PROMPT, "temperature": 1000.0}, "temperature must be in [0, 100]"),
        ({"text_input": PROMPT, "max_tokens": 1_000_000}, "max_tokens must be at most"),
    ],
)
def test_bad_input_is_named_by_every_twin(server: Server, model: str, fields: dict[str, Any], message: str) -> None:
    status, text = post(server, f"{model}/generate", fields)
    assert status == 400, text
    assert f"INVALID_ARGUMENT: {message}" in json.loads(text)["error"]
    assert_clean(text)


def test_a_number_that_does_not_fit(server: Server) -> None:
    fields = {"text_input": PROMPT, "max_tokens": 2**31}
    for model in (ENSEMBLE_U32.name, UNARY_U32.name):
        status, text = post(server, f"{model}/generate", fields)
        assert status == 400
        assert "INVALID_ARGUMENT: max_tokens must be <= 2147483647, got 2147483648" in text
    assert post(server, f"{ENSEMBLE_U32.name}/generate", {"text_input": PROMPT, "max_tokens": -1})[0] >= 400
