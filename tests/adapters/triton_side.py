"""Plays Triton: makes requests of plain values, checks every response against the contract, wires the three stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray
from small_tokenizers import write_tokenizer

from conch.contract import DETOKENIZER, ENGINE, MODEL_NAMES, TEXT_OUTPUT, TOKENIZER, DType, ModelContract, TensorSpec
from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.layout import write_release
from conch.spec import parse_spec
from conch.triton.detokenizer_stage import DetokenizerStage
from conch.triton.engine_stage import EngineStage
from conch.triton.tokenizer_stage import TokenizerStage

TIMEOUT_S = 30
_NUMPY: dict[DType, Any] = {
    DType.BYTES: np.object_, DType.BOOL: np.bool_, DType.INT32: np.int32, DType.INT64: np.int64,
    DType.UINT32: np.uint32, DType.UINT64: np.uint64, DType.FP32: np.float32,
}  # fmt: skip
# Code in front of an error's text -> Triton's own.
_TRITON_CODES = {
    "INVALID_ARGUMENT": pb_utils.TritonError.INVALID_ARG, "UNSUPPORTED": pb_utils.TritonError.UNSUPPORTED,
    "UNAVAILABLE": pb_utils.TritonError.UNAVAILABLE, "DEADLINE_EXCEEDED": pb_utils.TritonError.UNAVAILABLE,
    "CANCELLED": pb_utils.TritonError.CANCELLED,
    "INTERNAL": pb_utils.TritonError.INTERNAL,
}  # fmt: skip
Values = dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A response that is an error: its code and the rest of its text."""

    code: str
    message: str


def write_small_release(
    repository: Path, family: str = "single_bytes", *, template: bool = True, **sections: Mapping[str, Any]
) -> Path:
    """Write a release of the echo engine; ``sections`` are engine and serving of its spec."""
    scratch = repository.with_name(repository.name + "-files")
    (scratch / "engine").mkdir(parents=True)
    write_tokenizer(scratch / "tokenizer", family, **({} if template else {"template": None}))
    spec = parse_spec("{name: small, source: {uri: none.gguf}}", "small").model_dump(mode="json")
    spec["engine"] |= {"runtime": "echo", **sections.get("engine", {})}
    spec["serving"] |= sections.get("serving", {})
    provenance = Provenance(uri="none.gguf", revision="0", sha256="0" * 64)
    artifacts = Artifacts(scratch / "tokenizer", scratch / "engine", provenance)
    write_release(repository, parse_spec(str(spec).replace("None", "null").replace("'", '"'), "small"), artifacts)
    return repository


def make_request(
    contract: ModelContract,
    values: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
    sender: pb_utils.ResponseSender | None = None,
) -> pb_utils.InferenceRequest:
    """A request of one row (values as they are) or of several (every value a ``Rows``)."""
    specs = {spec.name: spec for spec in contract.inputs}
    tensors = [pb_utils.Tensor(name, to_array(specs[name], value)) for name, value in values.items()]
    return pb_utils.InferenceRequest(tensors, parameters, sender=sender)


class Rows(list[Any]):
    """One value for each row of a request."""


def to_array(spec: TensorSpec, value: Any) -> NDArray[Any]:
    """An input with the batch dimension in front."""
    if isinstance(value, np.ndarray):
        return value
    rows = [np.array(row, dtype=_NUMPY[spec.dtype]).reshape(spec.dims) for row in _rows(value)]
    return np.stack(rows)


def _rows(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Rows) else [value]


def read_response(contract: ModelContract, response: pb_utils.InferenceResponse) -> dict[str, NDArray[Any]] | Refused:
    """Outputs by name, each checked against the contract; or the error."""
    if response.has_error():
        code, _, message = response.error().message().partition(": ")
        assert response.error().code() == _TRITON_CODES[code]
        return Refused(code, message)
    specs = {spec.name: spec for spec in contract.outputs}
    found: dict[str, NDArray[Any]] = {}
    for tensor in response.output_tensors():
        spec, array = specs[tensor.name()], tensor.as_numpy()
        assert tensor.name() not in found, f"{tensor.name()} is there twice"
        assert array.dtype.type is _NUMPY[spec.dtype], f"{spec.name} has dtype {array.dtype}"
        found[tensor.name()] = array
        if spec is TEXT_OUTPUT:
            assert array.ndim == 1, "it is sent without a dimension for the row"
            continue
        assert len(array.shape) == 1 + len(spec.dims), f"{spec.name} has shape {array.shape}"
        assert all(want in (-1, have) for want, have in zip(spec.dims, array.shape[1:], strict=True)), array.shape
    assert {s.name for s in contract.outputs if not s.optional} <= set(found)
    assert len({len(a) for n, a in found.items() if n != TEXT_OUTPUT.name}) <= 1, "outputs differ in their rows"
    return found


class Stages:
    """The three stages of a release, wired as the ensemble is."""

    def __init__(self, repository: Path, version: int = 1) -> None:
        folders = {name: repository / name / str(version) for name in MODEL_NAMES}
        self.tokenizer = TokenizerStage(folders[TOKENIZER.name])
        self.engine = EngineStage(folders[ENGINE.name])
        self.detokenizer = DetokenizerStage(folders[DETOKENIZER.name])

    def close(self) -> None:
        self.engine.close()

    def tokenize(self, *batch: Values, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """Run requests through the tokenizer in one call: outputs or Refused of each."""
        requests = [make_request(TOKENIZER, values, parameters) for values in batch]
        responses = self.tokenizer.execute(requests)
        assert len(responses) == len(requests)
        return [read_response(TOKENIZER, response) for response in responses]

    def submit(self, values: Values) -> pb_utils.ResponseSender:
        """Hand one request to the engine."""
        sender = pb_utils.ResponseSender()
        self.engine.execute([make_request(ENGINE, values, sender=sender)])
        return sender

    def generate(self, values: Values) -> list[Any]:
        """All responses of the engine to one request."""
        return self.collect(self.submit(values))

    @staticmethod
    def collect(sender: pb_utils.ResponseSender) -> list[Any]:
        """Wait for FINAL; the responses as read."""
        assert sender.done.wait(TIMEOUT_S), "no FINAL response"
        assert sender.finals == 1
        return [read_response(ENGINE, response) for response in sender.responses]

    def detokenize(self, *batch: Values) -> list[Any]:
        """Run requests through the detokenizer in one call: texts of the rows, or Refused, of each."""
        responses = self.detokenizer.execute([make_request(DETOKENIZER, values) for values in batch])
        outputs = [read_response(DETOKENIZER, response) for response in responses]
        return [o if isinstance(o, Refused) else [text.decode() for text in o["text_output"]] for o in outputs]

    def ask(self, **values: Any) -> list[Any]:
        """Ask the ensemble: (text of each row, the engine's outputs) of every response, or a Refused."""
        (tokenized,) = self.tokenize(values)
        if isinstance(tokenized, Refused):
            return [tokenized]
        answers: list[Any] = []
        for output in self.generate(tokenized):
            if isinstance(output, Refused):
                answers.append(output)
                continue
            inputs = {name: array for name, array in output.items() if name in _DETOKENIZER_INPUTS}
            (texts,) = self.detokenize(inputs)
            answers.append((texts, output))
        return answers


_DETOKENIZER_INPUTS = {tensor.name for tensor in DETOKENIZER.inputs}
