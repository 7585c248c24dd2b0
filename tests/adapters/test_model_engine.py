"""The engine stage over Triton's C++ backend, as far as its tensors go: a model that speaks them stands in.

What stands in repeats the prompt, a token for each response, as the backend streams; it checks every input against the
names, types and shapes that TensorRT-LLM declares.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from server_processes import wait_until
from small_tokenizers import write_tokenizer
from triton_side import TIMEOUT_S, Refused, Stages

from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.layout import write_release
from conch.spec import parse_spec
from conch.triton import model_engine
from conch.trtllm.tensors import BACKEND_MODEL

REFERENCE = json.loads((Path(__file__).parents[1] / "reference/tensorrt_llm_1_2.json").read_text(encoding="utf-8"))
INPUTS = {tensor["name"]: tensor for tensor in REFERENCE["inputs"]}
NUMPY = {
    "TYPE_INT32": np.int32, "TYPE_UINT64": np.uint64, "TYPE_FP32": np.float32, "TYPE_BOOL": np.bool_,
    "TYPE_STRING": np.object_,
}  # fmt: skip
Response = pb_utils.InferenceResponse


class Backend:
    """Stands in for the C++ backend.

    Attributes:
        requests: inputs of each request that was no stop, in their order.
        held: set to let streams go on; clear, and they wait after their first token.
        fails_after: tokens of a stream before the backend fails; -1: it does not.
        silent_after: tokens of a stream before nothing comes any more; -1: it goes on.
        answers_stops: whether a stop is answered.
        released: set to let everybody go whom silence holds.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.held = threading.Event()
        self.held.set()
        self.error = ""
        self.says_end = True
        self.fails_after = self.silent_after = -1
        self.released = threading.Event()
        self.cancelled: list[threading.Event] = []  # of each request in requests
        self.stops, self.answers_stops = 0, True
        self._stopped: set[str] = set()
        self._running: set[str] = set()

    def __call__(self, request: pb_utils.InferenceRequest) -> Iterator[Response]:
        values = self._read(request)
        assert {"output_ids", "sequence_length"} <= request.requested_output_names(), "the backend would fail"
        if values.get("stop"):
            assert request.request_id(), "the backend refuses a stop without an id"
            self.stops += 1
            if not self.answers_stops:
                return self._nothing()
            self._stopped.add(request.request_id())
            self.held.set()
            return iter([Response([])])
        self.requests.append(values)
        self.cancelled.append(request.cancelled)
        return self._answer(request.request_id(), values)

    @staticmethod
    def _read(request: pb_utils.InferenceRequest) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for tensor in request.inputs():
            declared, array = INPUTS[tensor.name()], tensor.as_numpy()
            assert array.dtype.type is NUMPY[declared["data_type"]], tensor.name()
            assert array.shape[0] == 1
            assert len(array.shape) == 1 + len(declared["dims"]), tensor.name()
            fits = zip(declared["dims"], array.shape[1:], strict=True)
            assert all(wanted in (-1, found) for wanted, found in fits), tensor.name()
            values[tensor.name()] = array[0].tolist() if -1 in declared["dims"] else array.reshape(-1)[0]
        required = {name for name, tensor in INPUTS.items() if "optional" not in tensor["flags"]}
        assert required | {"input_ids"} <= set(values)
        return values

    def _answer(self, name: str, values: dict[str, Any]) -> Iterator[Response]:
        if self.error:
            yield Response(error=pb_utils.TritonError(self.error, pb_utils.TritonError.INTERNAL))
            return
        prompt, count = values["input_ids"], int(values["request_output_len"])
        ids = [prompt[i % len(prompt)] for i in range(count)]
        ends = [values["end_id"], *(values["stop_words_list"][0] if "stop_words_list" in values else [])]
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        if stop is not None:
            ids = ids[: stop + (1 if self.says_end else 0)]
        if not values["streaming"]:
            yield from self._whole(ids, values)
            return
        for index, token in enumerate(ids):
            if index == self.fails_after:
                yield Response(error=pb_utils.TritonError("device lost", pb_utils.TritonError.INTERNAL))
                return
            if index == self.silent_after:
                yield from self._nothing()
                return
            yield self._tokens([[token]], [[-0.5]] if values["return_log_probs"] else None)
            time.sleep(0.003)  # or the tokens would leave together
            if index == 0:
                assert self.held.wait(TIMEOUT_S)
            if name in self._stopped:
                break
        else:
            if stop is not None and not self.says_end:
                yield self._tokens([[]], None)

    def _nothing(self) -> Iterator[Response]:
        assert self.released.wait(TIMEOUT_S)
        yield Response([])

    def _whole(self, ids: list[int], values: dict[str, Any]) -> Iterator[Response]:
        beams, count = int(values["beam_width"]), int(values.get("num_return_sequences", 1))
        if beams > 1:
            yield self._tokens([ids] * beams, None)
            return
        for sequence in range(count):
            yield self._tokens([ids], None, sequence)

    @staticmethod
    def _tokens(rows: list[list[int]], log_probs: list[list[float]] | None, sequence: int | None = None) -> Response:
        tensors = [
            pb_utils.Tensor("output_ids", np.array([rows], dtype=np.int32)),
            pb_utils.Tensor("sequence_length", np.array([[len(row) for row in rows]], dtype=np.int32)),
        ]
        if log_probs is not None:
            tensors.append(pb_utils.Tensor("output_log_probs", np.array([log_probs], dtype=np.float32)))
        if sequence is not None:
            tensors.append(pb_utils.Tensor("sequence_index", np.array([[sequence]], dtype=np.int32)))
        return Response(tensors)


def write_trtllm_release(repository: Path, **section: Any) -> Path:
    """A release of the runtime tensorrtllm whose tokens are single bytes; its engine is nobody's."""
    scratch = repository.with_name(repository.name + "-files")
    (scratch / "engine").mkdir(parents=True)
    write_tokenizer(scratch / "tokenizer", "single_bytes")
    settings = {"architecture": "LlamaForCausalLM", **section}
    engine = {"runtime": "tensorrtllm", "max_seq_len": 64, "max_batch_size": 4, "step_timeout_s": 1}
    engine |= {"tensorrt_llm": settings}
    spec = parse_spec(json.dumps({"name": "small", "source": {"uri": "model"}, "engine": engine}), "small")
    artifacts = Artifacts(scratch / "tokenizer", scratch / "engine", Provenance("model", "0", "0" * 64))
    write_release(repository, spec, artifacts)
    return repository


Make = Callable[..., tuple[Stages, Backend]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Stages] = []
    backend = Backend()
    pb_utils.served[BACKEND_MODEL, 1] = backend

    def _make(**section: Any) -> tuple[Stages, Backend]:
        made.append(Stages(write_trtllm_release(tmp_path / f"repository-{len(made)}", **section)))
        return made[-1], backend

    yield _make
    backend.held.set()
    backend.released.set()
    for stages in made:
        stages.close()
    pb_utils.served.clear()


def text(answers: list[Any]) -> str:
    return "".join(piece for texts, _ in answers for piece in texts)


def ids(stages: Stages, letters: str) -> list[int]:
    (tokenized,) = stages.tokenize({"text_input": letters})
    return list(map(int, tokenized["input_ids"][0]))


def test_pieces_and_whole_are_the_same_text(make: Make) -> None:
    stages, backend = make()
    pieces = stages.ask(text_input="Grüße, 世界 🎉", max_tokens=30, stream=True)
    assert len(pieces) > 5
    (whole,) = stages.ask(text_input="Grüße, 世界 🎉", max_tokens=30)
    assert text(pieces) == text([whole]) == ("Grüße, 世界 🎉" * 2).encode()[:30].decode("utf-8", "replace")
    assert [o["finish_reason"][0][0] for _, o in pieces if "finish_reason" in o] == [b"length"]
    assert all(request["streaming"] for request in backend.requests), "a stop word could not end it"


def test_controls_arrive_in_the_backend_s_tensors(make: Make) -> None:
    stages, backend = make()
    controls: dict[str, Any] = {
        "max_tokens": 3, "min_tokens": 2, "temperature": 0.5, "top_k": 7, "top_p": 0.5, "repetition_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": 2**64 - 1, "end_id": 5, "pad_id": 6,
        "return_log_probs": True,
    }  # fmt: skip
    ((_, outputs),) = stages.ask(text_input="ab", **controls)
    (found,) = backend.requests
    expected = {
        "input_ids": ids(stages, "ab"), "input_lengths": 2, "request_output_len": 3, "min_tokens": 2,
        "temperature": 0.5, "runtime_top_k": 7, "runtime_top_p": 0.5, "repetition_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": 2**64 - 1, "end_id": 5, "pad_id": 6,
        "beam_width": 1,
        "return_log_probs": True, "exclude_input_in_output": True, "streaming": True,
    }  # fmt: skip
    assert found == expected
    assert outputs["output_log_probs"].tolist() == [[[-0.5] * 3]]


def test_greedy_is_top_k_1_and_seeds_differ(make: Make) -> None:
    stages, backend = make()
    for _ in range(2):
        stages.ask(text_input="ab", max_tokens=1)
    first, second = backend.requests
    assert first["runtime_top_k"] == 1
    assert "temperature" not in first
    assert first["seed"] != second["seed"], "the backend's own default is the same for everybody"


@pytest.mark.parametrize("says_end", [True, False], ids=["end token sent", "end token kept back"])
def test_an_end_token_ends_the_answer(make: Make, says_end: bool) -> None:
    stages, backend = make()
    backend.says_end = says_end
    answers = stages.ask(text_input="abcdef", max_tokens=6, end_id=ids(stages, "d")[0], stream=True)
    assert answers[-1][1]["finish_reason"].tolist() == [[b"stop"]]
    assert text(answers) == ("abcd" if says_end else "abc")


def test_other_end_tokens_are_stop_words(make: Make) -> None:
    stages, backend = make()
    ends = ids(stages, "ce")
    object.__setattr__(stages.engine._limits, "eos_token_ids", (1, *ends))
    answers = stages.generate(stages.tokenize({"text_input": "abcdef", "max_tokens": 6})[0])
    assert backend.requests[0]["end_id"] == 1
    assert backend.requests[0]["stop_words_list"] == [ends, [1, 2]]
    assert answers[-1]["finish_reason"].tolist() == [[b"stop"]]


def test_a_stop_word_across_tokens_is_cut_and_ends_the_engine_s_work(make: Make) -> None:
    stages, backend = make()
    backend.held.clear()  # only the stop that Conch sends lets it go on
    answers = stages.ask(text_input="abcdefgh", max_tokens=40, stop_words=[b"a"], stream=True)
    assert text(answers) == ""
    assert answers[-1][1]["finish_reason"].tolist() == [[b"stop"]]
    assert backend.held.wait(TIMEOUT_S), "the model was never told"
    answers = stages.ask(text_input="abcdefgh", max_tokens=40, stop_words=[b"cde"], stream=True)
    assert text(answers) == "ab"


def test_several_answers_come_whole(make: Make) -> None:
    stages, backend = make(build={"max_beam_width": 3})
    ((texts, outputs),) = stages.ask(text_input="abc", max_tokens=4, beam_width=3, num_return_sequences=2)
    assert outputs["sequence_length"].tolist() == [[4, 4]]
    assert not backend.requests[0]["streaming"]
    assert backend.requests[0]["len_penalty"] == 1
    assert texts


def test_samples_are_told_apart_by_their_number(make: Make) -> None:
    stages, backend = make()
    ((_, outputs),) = stages.ask(text_input="abc", max_tokens=4, temperature=1.0, num_return_sequences=3)
    assert outputs["sequence_length"].tolist() == [[4, 4, 4]]
    assert backend.requests[0]["num_return_sequences"] == 3


@pytest.mark.parametrize(
    ("section", "controls", "message"),
    [
        ({}, {"beam_width": 2}, "beam_width must be at most 1, which the engine was compiled for, got 2"),
        ({"build": {"max_beam_width": 2}}, {"temperature": 1.0}, "compiled for beam search, and this request asks to"),
        ({}, {"guided_decoding_guide_type": b"json"}, "its spec sets no guided_decoding_backend"),
        ({}, {"bad_words": [b"x"]}, "bad_words is not supported by the runtime tensorrtllm"),
        ({}, {"min_p": 0.5}, "min_p is not supported by the runtime tensorrtllm"),
    ],
)
def test_what_the_engine_cannot_do_is_refused(
    make: Make, section: dict[str, Any], controls: dict[str, Any], message: str
) -> None:
    stages, backend = make(**section)
    (answer,) = stages.ask(text_input="abc", max_tokens=4, **controls)
    assert isinstance(answer, Refused)
    assert answer.code == "UNSUPPORTED"
    assert message in answer.message
    assert backend.requests == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("Executor failed process requestId 7 due to the following error: illegal memory access", "INTERNAL"),
        ("Maximum queue size of 4 has been reached, please try again later", "UNAVAILABLE"),
    ],
)
def test_an_error_of_the_backend_is_the_request_s_alone(make: Make, error: str, code: str) -> None:
    stages, backend = make()
    backend.error = error
    (answer,) = stages.ask(text_input="abc", max_tokens=4)
    assert isinstance(answer, Refused)
    assert answer.code == code
    assert error in answer.message
    backend.error = ""
    assert text(stages.ask(text_input="abc", max_tokens=4)) == "abca"


def test_a_backend_that_fails_in_the_middle_ends_the_stream(make: Make) -> None:
    stages, backend = make()
    backend.fails_after = 2
    *pieces, last = stages.ask(text_input="abc", max_tokens=6, stream=True)
    assert text(pieces) == "ab"
    assert isinstance(last, Refused)
    assert (last.code, "device lost" in last.message) == ("INTERNAL", True)
    backend.fails_after = -1
    assert text(stages.ask(text_input="abc", max_tokens=4)) == "abca"


def test_a_guide_that_the_backend_refuses_is_the_client_s_fault(make: Make) -> None:
    stages, backend = make(backend={"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": "/info"})
    backend.error = "Executor failed process requestId 7 due to the following error: Regex parsing error at position 3"
    guide = {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"(("}
    (answer,) = stages.ask(text_input="abc", max_tokens=4, **guide)
    assert isinstance(answer, Refused)
    assert answer.code == "INVALID_ARGUMENT"
    assert "guided_decoding_guide cannot be compiled as regex: the engine says: Executor failed" in answer.message
    assert backend.requests[0]["guided_decoding_guide"] == b"(("
    backend.error = "Executor failed process requestId 8 due to the following error: out of memory"
    (other,) = stages.ask(text_input="abc", max_tokens=4, **guide)
    assert other.code == "INTERNAL"


def test_a_model_that_is_not_there_is_named(make: Make) -> None:
    stages, _ = make()
    pb_utils.served.clear()
    (answer,) = stages.ask(text_input="abc", max_tokens=4)
    assert isinstance(answer, Refused)
    assert answer.code == "UNAVAILABLE"
    assert BACKEND_MODEL in answer.message


def test_a_close_ends_what_is_under_way(make: Make) -> None:
    stages, backend = make()
    backend.held.clear()
    sender = stages.submit(stages.tokenize({"text_input": "abc", "max_tokens": 9, "stream": True})[0])
    stages.engine.close()
    answers = stages.collect(sender)
    assert isinstance(answers[-1], Refused)
    assert answers[-1].code == "UNAVAILABLE"


def begin(stages: Stages) -> pb_utils.ResponseSender:
    """A stream of nine tokens."""
    (tokenized,) = stages.tokenize({"text_input": "abc", "max_tokens": 9, "stream": True})
    return stages.submit(tokenized)


def refusal(stages: Stages, sender: pb_utils.ResponseSender) -> tuple[str, str]:
    """Code and text of the error that ends a request."""
    last = stages.collect(sender)[-1]
    assert isinstance(last, Refused)
    return last.code, last.message


@pytest.mark.parametrize(
    ("silent_after", "answers_stops"), [(0, False), (2, True)], ids=["before the first token", "in the middle"]
)
def test_a_backend_that_goes_silent_fails_its_requests(make: Make, silent_after: int, answers_stops: bool) -> None:
    stages, backend = make()
    backend.silent_after, backend.answers_stops = silent_after, answers_stops
    for sender in [begin(stages) for _ in range(4)]:  # as many as there are places
        assert refusal(stages, sender) == ("UNAVAILABLE", "the engine has sent nothing for 1 s")
    backend.silent_after = -1
    assert text(stages.ask(text_input="abc", max_tokens=4)) == "abca"


def test_a_stream_that_hears_nothing_fails_while_others_go_on(make: Make) -> None:
    stages, backend = make()
    backend.held.clear()
    held = begin(stages)
    until = time.monotonic() + TIMEOUT_S
    while not held.done.is_set():
        assert time.monotonic() < until
        stages.ask(text_input="abc", max_tokens=1)
    assert refusal(stages, held)[0] == "UNAVAILABLE"


def test_whole_answers_may_take_the_time_of_all_their_steps(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stages, backend = make(build={"max_beam_width": 2})
    answer = backend._whole

    def late(*args: Any) -> Iterator[Response]:
        time.sleep(1.3)
        return answer(*args)

    monkeypatch.setattr(backend, "_whole", late)
    ((_, outputs),) = stages.ask(text_input="abc", max_tokens=4, beam_width=2, num_return_sequences=2)
    assert outputs["sequence_length"].tolist() == [[4, 4]]


def test_what_does_not_end_is_stopped_for_a_while(make: Make) -> None:
    stages, backend = make()
    backend.silent_after = 1
    sender = begin(stages)
    wait_until(lambda: bool(sender.responses), TIMEOUT_S)
    sender.cancelled.set()
    stages.collect(sender)
    wait_until(lambda: backend.stops > 5, TIMEOUT_S)
    wait_until(lambda: not stages.engine._engine.engine._live, TIMEOUT_S)  # type: ignore[attr-defined]
    stops = backend.stops
    time.sleep(0.3)
    assert backend.stops == stops <= 10


@pytest.mark.parametrize("can_cancel", [False, True])
def test_a_silent_backend_does_not_hold_up_a_close(
    make: Make, monkeypatch: pytest.MonkeyPatch, can_cancel: bool
) -> None:
    monkeypatch.setattr(pb_utils, "bls_can_cancel", can_cancel)
    monkeypatch.setattr(model_engine, "_CLOSE_S", 0.1)
    stages, backend = make()
    backend.silent_after = 1
    sender = begin(stages)
    wait_until(lambda: bool(sender.responses), TIMEOUT_S)
    stages.close()
    assert refusal(stages, sender) == ("UNAVAILABLE", "the engine is shutting down")
    assert backend.cancelled[0].is_set() == can_cancel
