"""What is made of a guide, and of what the compiler says to it."""

from __future__ import annotations

import json

import pytest

from conch.engines.guide_compiler import plain_reason, with_exact_integers

_RANGE = {"type": "integer", "minimum": 0, "maximum": 120}
_ALL = {"enum": list(range(121))}


def test_small_ranges_of_integers_are_written_out_wherever_a_schema_stands() -> None:
    schema = {
        "$defs": {"d": _RANGE}, "properties": {"a": _RANGE, "minimum": {"type": "integer"}},
        "items": [_RANGE, {"anyOf": [_RANGE]}],
    }  # fmt: skip
    assert json.loads(with_exact_integers(json.dumps(schema))) == {
        "$defs": {"d": _ALL}, "properties": {"a": _ALL, "minimum": {"type": "integer"}},
        "items": [_ALL, {"anyOf": [_ALL]}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        json.dumps({"const": _RANGE}),
        json.dumps({"enum": [_RANGE]}),
        '{"type": "integer", "minimum": 0}',
        '{"type": "integer", "minimum": 0, "maximum": 1000}',
        '{"type": "integer", "minimum": 3, "maximum": 2}',
        '{"type": "integer", "minimum": false, "maximum": true}',
        '{"type": "number", "minimum": 0, "maximum": 1e400}',
        '{"properties": {"type": "integer", "minimum": {}, "maximum": {}}}',
        "{",
        "[" * 5000,
        "true",
        "",
    ],
)
def test_what_is_left_as_it_was_written(schema: str) -> None:
    assert with_exact_integers(schema) == schema


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[00:13:02] /home/build/xgrammar-src/cpp/regex_converter.cc:75: Regex parsing error", "Regex parsing error"),
        (
            "[00:13:02] /home/x/json_schema_converter.cc:850: Check failed: (schema.is<picojson::object>()) is false: "
            "Schema should be an object",
            "Schema should be an object",
        ),
        ("Exception from src/cpp/src/x.cpp:12:\nCheck 'a' failed at src/y.cpp:5:\nno\nway\n\n", "no way"),
        ("", "it is not understood"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_compilers_words_without_where_it_stands_in_its_code(said: str, reason: str) -> None:
    assert plain_reason(RuntimeError(said)) == reason
