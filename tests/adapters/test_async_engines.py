"""vLLM and TensorRT-LLM's LLM API behind the stages: the fakes of tests/fakes in a real worker process.

They answer with the ids 100, 101, … whatever the prompt is.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_processes import ROOT
from small_tokenizers import write_tokenizer
from triton_side import Refused, Stages

from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.layout import write_release
from conch.spec import parse_spec

RUNTIMES = {"vllm": "vllm", "tensorrt_llm": "llmapi"}


def write_served_release(repository: Path, runtime: str, **section: Any) -> Path:
    """A release whose tokens are single bytes."""
    scratch = repository.with_name(repository.name + "-files")
    (scratch / "engine").mkdir(parents=True)
    write_tokenizer(scratch / "tokenizer", "single_bytes")
    engine = {"runtime": runtime, "max_seq_len": 128, "max_batch_size": 4, "max_num_tokens": 64, "step_timeout_s": 2,
              RUNTIMES[runtime]: section}  # fmt: skip
    spec = parse_spec(json.dumps({"name": "small", "source": {"uri": "model"}, "engine": engine}), "small")
    provenance = Provenance("model", "0", "0" * 64)
    write_release(repository, spec, Artifacts(scratch / "tokenizer", scratch / "engine", provenance))
    return repository


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stages]]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "fakes"))
    monkeypatch.delenv("CONCH_ENGINE_PYTHON", raising=False)
    made: list[Stages] = []

    def _make(runtime: str, **section: Any) -> Stages:
        made.append(Stages(write_served_release(tmp_path / f"repository-{len(made)}", runtime, **section)))
        return made[-1]

    yield _make
    for stages in made:
        stages.close()


def text(answers: list[Any]) -> str:
    return "".join(piece for texts, _ in answers for piece in texts)


def test_pieces_whole_and_stop_words(make: Callable[..., Stages], runtime: str) -> None:
    stages = make(runtime)
    fields = {"text_input": "abc", "end_id": -1, "max_tokens": 20}
    pieces = stages.ask(**fields, stream=True)
    (whole,) = stages.ask(**fields)
    assert text(pieces) == text([whole])
    assert whole[1]["finish_reason"].reshape(-1).tolist() == [b"length"]
    word = text([whole])[5:8]
    (stopped,) = stages.ask(**fields, stop_words=[word])
    assert text([stopped]) == text([whole])[: text([whole]).index(word)]
    assert stopped[1]["finish_reason"].reshape(-1).tolist() == [b"stop"]


def test_several_answers_with_log_probs(make: Callable[..., Stages], runtime: str) -> None:
    fields = {"text_input": "abc", "end_id": -1, "max_tokens": 3, "temperature": 1.0, "num_return_sequences": 2}
    ((_, outputs),) = make(runtime).ask(**fields, return_log_probs=True)
    assert outputs["output_ids"].tolist() == [[[100, 101, 102]] * 2]
    assert outputs["output_log_probs"].reshape(-1).tolist() == pytest.approx([-1.0, -1.01, -1.02] * 2)


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"beam_width": 2}, "UNSUPPORTED", "beam_width is not supported by the runtime {runtime}"),
        ({"return_context_logits": True}, "UNSUPPORTED", "return_context_logits is not supported by the runtime"),
        ({"lora_task_id": 1}, "UNSUPPORTED", "lora_task_id is not supported by"),
        ({"top_p": 1.5}, "INVALID_ARGUMENT", "top_p must be in [0, 1], got 1.5"),
        ({"num_return_sequences": 9}, "INVALID_ARGUMENT", "num_return_sequences must be at most 4, got 9"),
    ],
)
def test_refusals(
    make: Callable[..., Stages], runtime: str, fields: dict[str, Any], code: str, message: str
) -> None:
    (refused,) = make(runtime).ask(text_input="a", **fields)
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert message.format(runtime=runtime) in refused.message


def test_guides_need_xgrammar_in_the_python_of_the_engine(make: Callable[..., Stages], runtime: str) -> None:
    stages = make(runtime)
    (refused,) = stages.ask(text_input="a", guided_decoding_guide_type="json")
    assert isinstance(refused, Refused)
    assert refused.code == "UNAVAILABLE"
    assert "Traceback" not in refused.message
    assert not isinstance(stages.ask(text_input="a", max_tokens=2)[0], Refused), "others are answered all the same"


def test_rows_of_one_request_and_many_at_once(make: Callable[..., Stages], runtime: str) -> None:
    stages = make(runtime)
    (tokenized,) = stages.tokenize({"text_input": "abc", "end_id": -1, "max_tokens": 9})
    senders = [stages.submit(tokenized) for _ in range(12)]  # three times what the engine takes at once
    for sender in senders:
        (response,) = stages.collect(sender)
        assert response["output_ids"].tolist() == [[list(range(100, 109))]]


def test_a_worker_that_dies_is_unavailable_and_comes_back(make: Callable[..., Stages], runtime: str) -> None:
    stages = make(runtime)
    fields = {"text_input": "abc", "end_id": -1, "max_tokens": 2}
    assert not isinstance(stages.ask(**fields)[0], Refused)
    process: Any = stages.engine._engine._queue.engine  # type: ignore[attr-defined]
    os.kill(process._link.pid, signal.SIGSTOP)
    (refused,) = stages.ask(**fields)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.message) == ("UNAVAILABLE", "the engine stopped answering for 2 s")
    deadline = time.monotonic() + 60
    while isinstance(answer := stages.ask(**fields)[0], Refused):
        assert answer.code == "UNAVAILABLE"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer[1]["output_ids"].tolist() == [[[100, 101]]]
