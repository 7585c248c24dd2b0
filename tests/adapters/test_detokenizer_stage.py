"""The detokenizer behind Triton's API."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_tokenizers import END, small_tokenizer
from triton_side import Refused, Stages, make_request, read_response

from conch.contract import DETOKENIZER

SHAPE = "must have the shape [1, 2], a value for each sequence of output_ids"


def ids_of(text: str) -> list[int]:
    ids: list[int] = small_tokenizer("single_bytes").encode(text).ids
    return ids


def output(*rows: list[int], context: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """What the engine sends for one request; rows filled up with id 3."""
    longest = max(map(len, rows))
    ids = np.array([row + [3] * (longest - len(row)) for row in rows], np.int32).reshape(len(rows), 1, longest)
    lengths = np.array([[len(row)] for row in rows], np.int32)
    values: dict[str, Any] = {"output_ids": ids, "sequence_length": lengths, **more}
    if context:
        values["context_ids"] = np.array([context], np.int32)
    return values


def test_ids_become_text(stages: Stages) -> None:
    assert stages.detokenize(output(ids_of("héllo"), finish_reason=b"stop")) == [["héllo"]]
    assert stages.detokenize(output(ids_of("x<|end|>"), finish_reason=b"stop")) == [["x"]]
    assert stages.detokenize(output([], finish_reason=b"stop")) == [[""]]


def test_a_character_in_pieces_waits_for_its_end(stages: Stages) -> None:
    first, second, third, last = ids_of("😀")
    chunks = [
        output([first]),
        output([second, third], context=[first]),
        output([last], context=[first, second, third]),
    ]
    assert stages.detokenize(*chunks) == [[""], [""], ["😀"]]
    end = output([third], context=[first, second], finish_reason=b"length")
    assert stages.detokenize(end) == [["\ufffd"]]
    assert stages.detokenize(output([END], context=[first], finish_reason=b"stop")) == [["\ufffd"]]


def test_rows_have_lengths_and_trims_of_their_own(stages: Stages) -> None:
    values = output(ids_of("abc"), ids_of("d"), ids_of("€f"), finish_reason=np.array([[b"stop"]] * 3, np.object_))
    values["trim_chars"] = np.array([[2], [0], [1]], np.int32)
    assert stages.detokenize(values) == [["a", "d", "€"]]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sequence_length", [[1]], f"{SHAPE}, got [1, 1]"),
        ("sequence_length", [[1, 1, 1]], f"{SHAPE}, got [1, 3]"),
        ("sequence_length", [[1, -1]], "must be in [0, 3], got -1"),
        ("sequence_length", [[1, 4]], "must be in [0, 3], got 4"),
        ("trim_chars", [[1]], f"{SHAPE}, got [1, 1]"),
        ("trim_chars", [[0, -1]], "must be a finite number >= 0, got -1"),
    ],
)
def test_counts_that_do_not_fit_the_ids_are_refused(stages: Stages, field: str, value: list[Any], message: str) -> None:
    values = {"output_ids": np.full((1, 2, 3), 5, np.int32), "sequence_length": np.array([[3, 3]], np.int32)}
    (refused,) = stages.detokenize({**values, field: np.array(value, np.int32)})
    assert refused == Refused("INVALID_ARGUMENT", f"{field} {message}")


def test_an_unknown_field_is_refused(stages: Stages) -> None:
    values = output(ids_of("ok"))
    (response,) = stages.detokenizer.execute([make_request(DETOKENIZER, values, {"context_id": 3, "timeout": 9})])
    refused = read_response(DETOKENIZER, response)
    assert refused == Refused("INVALID_ARGUMENT", "unknown field context_id; did you mean context_ids?")


@pytest.mark.parametrize("bad", [-1, 259, 1 << 30])
def test_a_bad_request_leaves_its_batch_alone(stages: Stages, bad: int) -> None:
    good = output(ids_of("ok"), finish_reason=b"stop")
    refused = Refused("INVALID_ARGUMENT", f"token ids must be in [0, 259), got {bad}")
    texts = stages.detokenize(good, output([*ids_of("x"), bad], finish_reason=b"stop"), good, {}, good)
    assert texts[:3] == [["ok"], refused, ["ok"]]
    assert texts[3].code == "INVALID_ARGUMENT"
    assert texts[4] == ["ok"]
