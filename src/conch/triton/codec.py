"""Tensors to values and back: the only place that knows how a row of a request lies in Triton's arrays."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from conch.contract import (
    ALIASES,
    CONTROLS,
    NAMES_ELSEWHERE,
    PIPELINE,
    TEXT_INPUT,
    TRITON_PARAMETERS,
    DType,
    ModelContract,
    TensorSpec,
)
from conch.errors import Code, ConchError, InvalidArgumentError

_NUMPY: dict[DType, Any] = {
    DType.BYTES: np.object_, DType.BOOL: np.bool_, DType.INT32: np.int32, DType.INT64: np.int64,
    DType.UINT32: np.uint32, DType.UINT64: np.uint64, DType.FP32: np.float32,
}  # fmt: skip
# Names of pb_utils.TritonError's codes. The module gets most of its members only after a model's own modules have been
# imported (pb_stub.cc), so nothing of it may be touched at import time.
_TRITON_CODES = {
    Code.INVALID_ARGUMENT: "INVALID_ARG", Code.NOT_FOUND: "NOT_FOUND", Code.ALREADY_EXISTS: "ALREADY_EXISTS",
    Code.UNSUPPORTED: "UNSUPPORTED", Code.UNAVAILABLE: "UNAVAILABLE", Code.CANCELLED: "CANCELLED",
    Code.DEADLINE_EXCEEDED: "UNAVAILABLE",
}  # fmt: skip
_PUBLIC_NAMES = {**{c.name: c for c in CONTROLS}, **ALIASES}
_ENGINE_NAMES = {c.engine_name: c for c in CONTROLS}
# A field that is unknown under one name may be known to this ensemble under the other.
_RENAMED = {**PIPELINE.renames, **{new: name for name, new in PIPELINE.renames.items()}}

Arrays = dict[str, NDArray[Any]]


def read_arrays(request: pb_utils.InferenceRequest, model: ModelContract | None = None) -> Arrays:
    """Every input of a request: name -> array with the batch dimension in front.

    Args:
        request: from Triton.
        model: whose inputs must be there. Triton 2.51 lets a request pass that lacks one which is not optional, if
            others of the model are.

    Raises:
        InvalidArgumentError: names the input that is missing.
    """
    arrays: Arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    for spec in model.inputs if model is not None else ():
        if not spec.optional and spec.name not in arrays:
            raise InvalidArgumentError(f"{spec.name} must be given, and is missing")
    return arrays


def tensor(spec: TensorSpec, value: Any, dims: Sequence[int]) -> pb_utils.Tensor:
    """An output tensor.

    Args:
        spec: name and dtype.
        value: numbers, or bytes for BYTES; reshaped to ``dims``.
        dims: whole shape, the batch dimension included.
    """
    return pb_utils.Tensor(spec.name, np.array(value, dtype=_NUMPY[spec.dtype]).reshape(dims))


def public_controls(arrays: Arrays, rows: int) -> list[dict[str, Any]]:
    """Controls of each row of a request under public names.

    Returns:
        One dict per row: control name -> value; only what was sent.

    Raises:
        InvalidArgumentError: a control and its alias were both sent.
    """
    for alias, control in ALIASES.items():
        if alias in arrays and control.name in arrays:
            raise InvalidArgumentError(f"{alias} is another name of {control.name}: send one of them, not both")
    return _controls(arrays, rows, _PUBLIC_NAMES)


def engine_controls(arrays: Arrays, rows: int) -> list[dict[str, Any]]:
    """Controls of each row of a request under the engine's names; keys are public names all the same."""
    return _controls(arrays, rows, _ENGINE_NAMES)


def _controls(arrays: Arrays, rows: int, names: Mapping[str, Any]) -> list[dict[str, Any]]:
    values: list[dict[str, Any]] = [{} for _ in range(rows)]
    for name, array in arrays.items():
        control = names.get(name)
        if control is None:
            continue
        for row, target in enumerate(values):
            items = array[row].reshape(-1)
            target[control.name] = list(items) if control.dims == (-1,) else _plain(items[0])
    return values


def _plain(item: Any) -> Any:
    return item if isinstance(item, bytes) else item.item()


def engine_tensors(arrays: Arrays) -> list[pb_utils.Tensor]:
    """The controls of a request, renamed from public to engine names, to be handed on as they are."""
    return [pb_utils.Tensor(_PUBLIC_NAMES[n].engine_name, a) for n, a in arrays.items() if n in _PUBLIC_NAMES]


def refuse_unknown_parameters(request: pb_utils.InferenceRequest, model: ModelContract) -> None:
    """Refuse request parameters that are nobody's.

    Triton turns every key of an HTTP generate body that is no input of the model into a request parameter, so this is
    where a misspelt field shows up. An ensemble hands its parameters to each of its steps: what the first lets pass,
    the others do.

    Args:
        request: from Triton.
        model: whose inputs are suggested.

    Raises:
        InvalidArgumentError: names the field and the nearest one that exists.
    """
    text = request.parameters()
    if not text:
        return
    unknown = sorted(set(json.loads(text)) - TRITON_PARAMETERS)
    if unknown:
        near = _meant(unknown[0], [tensor.name for tensor in model.inputs])
        hint = f"; did you mean {near}?" if near else ""
        raise InvalidArgumentError(f"unknown field {unknown[0]}{hint}")


def _meant(unknown: str, known: Sequence[str]) -> str:
    """The field that an unknown one is nearest to; empty: none."""
    if unknown in _RENAMED and TEXT_INPUT.name in known:
        return _RENAMED[unknown]
    public = NAMES_ELSEWHERE.get(unknown, unknown)
    names = (public, _PUBLIC_NAMES[public].engine_name if public in _PUBLIC_NAMES else "")
    return next((n for n in (*names, *difflib.get_close_matches(unknown, known, n=1)) if n in known), "")


def error_response(error: ConchError) -> pb_utils.InferenceResponse:
    """An answer that carries an error, with Triton's code for it.

    The code stands in front of the text, too (``UNAVAILABLE: ...``): Triton 2.51 hands on the text alone, over gRPC
    inside the stream and over HTTP under the status 400.
    """
    code = getattr(pb_utils.TritonError, _TRITON_CODES.get(error.code, "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{error.code.value}: {error}", code))


def passed_on(text: str) -> pb_utils.InferenceResponse:
    """An answer with the error of another model that was asked: Triton hands on its text, and loses its code.

    Args:
        text: as error_response wrote it, or Triton's own words.
    """
    code = text.partition(":")[0]
    known = {c.value: name for c, name in _TRITON_CODES.items()}
    if code not in known and code != Code.INTERNAL.value:
        text = f"{Code.INTERNAL.value}: {text}"
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, known.get(code, "INTERNAL")))
    )
