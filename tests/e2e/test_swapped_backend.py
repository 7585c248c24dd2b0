"""A release for Triton's C++ backend on the real Triton, with OpenVINO in the backend's place (tests/swapped_backends).

Short: that it loads as it is, and answers through the whole contract's ways. `make e2e-swapped` runs the long tests on
it, too.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from corpus import prompts
from google.protobuf import json_format, text_format
from server_processes import Server, wait_until
from triton_calls import GREEDY, TIMEOUT_S, arrays_of, ask, assert_clean, chat, generate, grpc_stub, message_of, read
from tritonclient.grpc import model_config_pb2 as pb

from conch.contract import ENGINE, ENSEMBLE, MODEL_NAMES
from conch.server import probe
from conch.spec import Runtime
from conch.support import REFUSED
from conch.trtllm.tensors import BACKEND_MODEL

pytestmark = pytest.mark.e2e

STORY = "Once upon a time there was"
FREE = {"text_input": STORY, "end_id": -1, **GREEDY}
# A value of each control that the runtime refuses: one that every other rule lets through.
VALUES: dict[str, Any] = {
    "bad_words": ["x"], "early_stopping": True, "lora_task_id": np.array([[3]], np.uint64), "min_p": 0.5,
    "no_repeat_ngram_size": 2, "return_context_logits": True, "return_generation_logits": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def swapped(make_server: Callable[[str], Server]) -> Server:
    return make_server("smollm2-135m-swapped")


@pytest.fixture
def stub(swapped: Server) -> Iterator[Any]:
    with grpc_stub(swapped) as stub:
        yield stub


def test_it_loads_as_it_was_written(swapped: Server) -> None:
    names = (*MODEL_NAMES, BACKEND_MODEL)
    assert all(probe.model_ready(swapped.host, swapped.http_port, name) for name in names)
    url = f"http://{swapped.host}:{swapped.http_port}/v2/models/{BACKEND_MODEL}/config"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as page:
        served = json_format.ParseDict(json.load(page), pb.ModelConfig(), ignore_unknown_fields=True)
    text = (swapped.repository / BACKEND_MODEL / "config.pbtxt").read_text()
    written = text_format.Parse(text, pb.ModelConfig())
    assert written.backend == served.backend == "tensorrtllm"
    assert dict(served.parameters) == dict(written.parameters)
    assert list(served.input) == list(written.input)
    assert [(t.name, t.data_type, t.dims) for t in served.output] == [
        (t.name, t.data_type, t.dims) for t in written.output
    ]


def test_pieces_are_the_whole(swapped: Server) -> None:
    for name, prompt in prompts()[3::60]:
        fields = {"text_input": prompt, "max_tokens": 12, **GREEDY}
        ask(swapped, ENSEMBLE.name, fields)  # for the cache of prompts: with it answers may differ
        whole, streamed = (ask(swapped, ENSEMBLE.name, {**fields, "stream": stream}) for stream in (False, True))
        assert whole.error + streamed.error == "", name
        assert (streamed.text, streamed.finish_reason) == (whole.text, whole.finish_reason), name
    assert "Paris" in generate(swapped, ENSEMBLE.name, {"messages": chat("What is the capital of France?")}).text


def test_stop_words_on_text(swapped: Server) -> None:
    free = ask(swapped, ENSEMBLE.name, {**FREE, "max_tokens": 24}).text
    word = free[10:14]
    for stream in (False, True):
        reply = ask(swapped, ENSEMBLE.name, {**FREE, "max_tokens": 24, "stop_words": [word], "stream": stream})
        assert (reply.text, reply.finish_reason) == (free[: free.index(word)], "stop")


def test_a_guided_answer(swapped: Server) -> None:
    asked = {"messages": chat("What is the capital of France?"), "guided_decoding_guide_type": "regex", **GREEDY}
    assert ask(swapped, ENSEMBLE.name, {**asked, "guided_decoding_guide": "(Paris|Rome)!"}).text in ("Paris!", "Rome!")
    bad = ask(swapped, ENSEMBLE.name, {**asked, "guided_decoding_guide": "(("})
    assert "INVALID_ARGUMENT: guided_decoding_guide cannot be compiled as regex: " in bad.error
    assert_clean(bad.error)


def test_a_client_that_leaves_and_a_stop_end_the_work(swapped: Server, stub: Any) -> None:
    long = arrays_of({**FREE, "max_tokens": 4000, "stream": True})
    left, stopped = (
        stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, long, name)]), timeout=TIMEOUT_S) for name in ("a", "b")
    )
    for call in (left, stopped):
        assert not next(call).error_message
    begun = time.monotonic()
    left.cancel()
    stopping = read(stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of({"stop": True}), "b")])))
    assert (stopping.error, stopping.finish_reason) == ("", "cancelled")
    ended = read(stopped)
    assert (ended.error, ended.finish_reason) == ("", "cancelled")
    wait_until(lambda: probe.rows_in_engine(swapped.host, swapped.metrics_port) == 0, 15)
    assert time.monotonic() - begun < 30, "4,000 tokens would take longer"


def test_what_is_wrong_or_cannot_be_is_refused_by_name(swapped: Server) -> None:
    def error(**fields: Any) -> str:
        reply = ask(swapped, ENSEMBLE.name, {"text_input": "x", "max_tokens": 2, **fields})
        assert_clean(reply.error)
        return reply.error.removeprefix(f"in ensemble '{ENSEMBLE.name}', ")

    assert error(temperature=-1.0).startswith("INVALID_ARGUMENT: temperature must be ")
    assert error(beam_width=2) == (
        "UNSUPPORTED: beam_width must be at most 1, which the engine was compiled for, got 2"
    )
    refused = REFUSED[Runtime.TENSORRTLLM]
    assert set(VALUES) == {control.name for control in refused}
    for control, why in refused.items():
        says = f"UNSUPPORTED: {control.name} is not supported by the runtime tensorrtllm: {why}"
        assert error(**{control.name: VALUES[control.name]}) == says


def test_nvidias_own_tensors(swapped: Server) -> None:
    """As clients of the backend's own model ask it, past Conch's stages."""
    fields = {"input_ids": np.array([[504, 3575, 282]], np.int32), "input_lengths": 3, "request_output_len": 6}
    direct = ask(swapped, BACKEND_MODEL, {**fields, "end_id": -1, "runtime_top_k": 1, "streaming": True})
    assert (direct.error, len(direct.ids)) == ("", 6)
    assert ask(swapped, ENGINE.name, {**fields, "end_id": -1, **GREEDY}).ids == direct.ids
