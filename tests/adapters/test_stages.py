"""The three stages in a row, and what Triton asks of their modules."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples
from small_tokenizers import FAMILIES, small_tokenizer
from triton_side import Refused, Rows, Stages, make_request, read_response, write_small_release
from tritonclient.grpc import model_config_pb2

from conch.contract import STAGES, TOKENIZER, ModelContract
from conch.repository.manifest import manifest_path
from conch.text.files import TOKENIZER_FILE

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("Grüße, 日本 😀!", "the people's right", "  two  spaces\n", "🏳️‍🌈€" * 5)


def text_of(answers: list[Any], row: int = 0) -> str:
    """A row's text, from all its responses."""
    texts = []
    for answer in answers:
        assert not isinstance(answer, Refused), answer
        rows, output = answer
        if "batch_index" in output:
            texts.append(rows[0] if output["batch_index"][0, 0] == row else "")
        else:
            texts.append(rows[row])
    return "".join(texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_text_is_the_whole_text(make_stages: Callable[..., Stages], family: str) -> None:
    stages = make_stages(family)
    for text in TEXTS:
        ids = small_tokenizer(family).encode(text).ids
        if not ids:
            continue
        whole = text_of(stages.ask(text_input=text.encode(), max_tokens=len(ids)))
        assert whole == small_tokenizer(family).decode(ids, skip_special_tokens=True)
        streamed = stages.ask(text_input=text.encode(), max_tokens=len(ids), stream=True)
        assert text_of(streamed) == whole


@pytest.mark.parametrize("family", FAMILIES)
def test_stop_words_across_tokens(make_stages: Callable[..., Stages], family: str) -> None:
    stages = make_stages(family)
    text = "the people are born free and equal in dignity and rights"
    whole = text_of(stages.ask(text_input=text.encode(), max_tokens=60))
    for words in (["n fre"], ["dignity and r", "y and"], ["e"], [whole[0]], ["never", ""], [whole[5:30]]):
        stop = np.array([[word.encode() for word in words]], np.object_)
        for stream in (False, True):
            answers = stages.ask(text_input=text.encode(), max_tokens=60, stop_words=stop, stream=stream)
            found = text_of(answers)
            reason = answers[-1][1]["finish_reason"][0, 0]
            complete = [(whole.find(w) + len(w), whole.find(w)) for w in words if w and w in whole]
            if complete:
                first = min(complete)[1]
                assert (found, reason) == (whole[:first], b"stop")
            else:
                assert (found, reason) == (whole, b"length")


def test_rows_with_stop_words_of_their_own(stages: Stages) -> None:
    values = {
        "text_input": Rows([b"abcdef", b"abcdef", "€uro".encode()]), "max_tokens": Rows([10, 10, 6]),
        "stop_words": np.array([[b"cd", b""], [b"", b""], [b"o", b"ur"]], np.object_),
    }  # fmt: skip
    expected = ["ab", "abcdefabcd", "€"]
    assert stages.ask(**values)[0][0] == expected
    streamed = stages.ask(**values, stream=Rows([True] * 3))
    assert [text_of(streamed, row) for row in range(3)] == expected


@examples(30)
@given(
    text=st.text("ab€😀 ", min_size=1, max_size=12),
    words=st.lists(st.text("ab€😀 ", max_size=3), min_size=1, max_size=3),
    max_tokens=st.integers(1, 30),
)
def test_streamed_and_whole_are_equal_for_any_stop_words(
    stages: Stages, text: str, words: list[str], max_tokens: int
) -> None:
    values = {
        "text_input": text.encode(), "max_tokens": max_tokens,
        "stop_words": np.array([[word.encode() for word in words]], np.object_),
    }  # fmt: skip
    whole, streamed = stages.ask(**values), stages.ask(**values, stream=True)
    assert text_of(streamed) == text_of(whole)
    assert streamed[-1][1]["finish_reason"] == whole[-1][1]["finish_reason"]


def backend_model(name: str) -> Any:
    """The class in python_backends that Triton makes an instance of."""
    spec = importlib.util.spec_from_file_location(f"{name}_model", ROOT / "python_backends" / name / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel


def load_arguments(repository: Path, name: str) -> dict[str, str]:
    """What Triton hands to initialize."""
    text = (repository / name / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    data = json_format.MessageToDict(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {"model_config": json.dumps(data), "model_repository": str(repository / name), "model_version": "1"}


@pytest.mark.parametrize("contract", STAGES, ids=lambda contract: contract.name)
def test_the_backends_load_what_the_build_wrote(tmp_path: Path, contract: ModelContract) -> None:
    repository = write_small_release(tmp_path / "repository")
    model = backend_model(contract.name)()
    model.initialize(load_arguments(repository, contract.name))
    if contract is TOKENIZER:
        (response,) = model.execute([make_request(TOKENIZER, {"text_input": b"abc"})])
        assert read_response(TOKENIZER, response)["input_lengths"].tolist() == [[3]]  # type: ignore[index]
    if hasattr(model, "finalize"):
        model.finalize()


def test_a_config_that_does_not_fit_fails_the_load_in_one_sentence(tmp_path: Path) -> None:
    repository = write_small_release(tmp_path / "repository")
    arguments = load_arguments(repository, TOKENIZER.name)
    for old, new, message in (
        (
            '"name": "top_k"',
            '"name": "topk"',
            "input top_k of tokenizer must be ('TYPE_INT32', [1]), config.pbtxt says",
        ),
        ('"name": "input_lengths"', '"name": "lengths"', "output input_lengths of tokenizer must be"),
        ("TYPE_UINT64", "TYPE_INT64", "input lora_task_id of tokenizer must be ('TYPE_UINT64', [1])"),
    ):
        changed = {**arguments, "model_config": arguments["model_config"].replace(old, new)}
        assert changed != arguments
        with pytest.raises(pb_utils.TritonModelException) as caught:
            backend_model(TOKENIZER.name)().initialize(changed)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("contract", STAGES, ids=lambda contract: contract.name)
@pytest.mark.parametrize("name", [TOKENIZER_FILE, "release.json"])
def test_a_damaged_release_fails_the_load_in_one_sentence(tmp_path: Path, contract: ModelContract, name: str) -> None:
    repository = write_small_release(tmp_path / "repository")
    assert manifest_path(repository, 1).is_file()
    (repository / contract.name / "1" / name).write_text("{}")
    with pytest.raises(pb_utils.TritonModelException, match=name):
        backend_model(contract.name)().initialize(load_arguments(repository, contract.name))


def test_nothing_of_triton_s_module_is_touched_while_importing() -> None:
    # The stub fills the module only after the model's own imports.
    code = (
        "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('empty'); "
        "import conch.triton.load, conch.triton.tokenizer_stage, conch.triton.engine_stage, "
        "conch.triton.detokenizer_stage"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
