"""The step from UINT32 to INT32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_side import Refused, Rows, make_request, read_response

from conch.contract import UNSIGNED, DType
from conch.triton.unsigned_stage import UnsignedStage

MOST = 2**31 - 1


def convert(*batch: dict[str, Any]) -> list[Any]:
    responses = UnsignedStage(Path()).execute([make_request(UNSIGNED, values) for values in batch])
    return [read_response(UNSIGNED, response) for response in responses]


def test_every_input_comes_out_with_its_value() -> None:
    values: dict[str, Any] = {}
    for number, spec in enumerate(UNSIGNED.inputs):
        numeric = spec.dtype not in (DType.BYTES, DType.BOOL)
        values[spec.name] = number if numeric else True if spec.dtype is DType.BOOL else f"ü{number}".encode()
    values["priority"] = -3
    values["stop_words"] = np.array([[b"a", b"", "ü".encode()]], np.object_)
    (output,) = convert(values)
    assert set(output) == set(values)
    for name, array in output.items():
        expected = values[name].tolist() if isinstance(values[name], np.ndarray) else [[values[name]]]
        assert array.tolist() == expected


def test_only_numbers_that_cannot_be_negative_are_unsigned() -> None:
    kinds = {spec.name: spec.dtype for spec in UNSIGNED.inputs}
    assert {kinds[name] for name in ("max_tokens", "top_k", "beam_width", "min_length")} == {DType.UINT32}
    assert {kinds[name] for name in ("end_id", "priority")} == {DType.INT32}
    assert kinds["random_seed"] is DType.UINT64


def test_rows_and_the_largest_number() -> None:
    (output,) = convert({"text_input": Rows([b"a", b"b"]), "max_tokens": Rows([MOST, 0])})
    assert output["max_tokens"].dtype == np.int32
    assert output["max_tokens"].tolist() == [[MOST], [0]]


@pytest.mark.parametrize("value", [MOST + 1, 2**32 - 1])
def test_what_does_not_fit_is_refused_and_the_others_are_not(value: int) -> None:
    bad, good = convert({"text_input": b"a", "top_k": value}, {"text_input": b"b", "top_k": 4})
    assert bad == Refused("INVALID_ARGUMENT", f"top_k must be <= {MOST}, got {value}")
    assert good["top_k"].tolist() == [[4]]
