"""Fifty JSON schemas that bound what they describe, so that a small model comes to an end."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

SHORT: Schema = {"type": "string", "maxLength": 10}
LONGER: Schema = {"type": "string", "minLength": 2, "maxLength": 20}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 120}
FLAG: Schema = {"type": "boolean"}
COLOUR: Schema = {"enum": ["red", "green", "blue"]}


def _object(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False, **more}


def _list(items: Any, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _tuple(*items: Schema) -> Schema:
    return {
        "type": "array", "prefixItems": list(items), "items": False, "minItems": len(items), "maxItems": len(items),
    }  # fmt: skip


_POINT = _object({"x": COUNT, "y": COUNT})
_NUMBERS: list[Schema] = [
    COUNT,
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 13},
    {"type": "integer", "minimum": 1, "maximum": 150},
    _object({"price": {"type": "string", "pattern": "^[0-9]{1,3}[.][0-9]{2}$"}}),
    _object({"year": {"type": "integer", "minimum": 1990, "maximum": 2030}}),
]
_SCALARS: list[Schema] = [
    FLAG,
    {"type": "null"},
    SHORT,
    LONGER,
    {"const": "yes"},
    {"const": 42},
    {"const": None},
    {"const": {"a": [1, 2], "b": "ü"}},
    COLOUR,
    {"enum": [1, "two", None, False]},
    {"enum": ["with \"quotes\"", "back\\slash", "new\nline", "é", "日本"]},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2,4}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": ["boolean", "null"]},
]  # fmt: skip
_LISTS: list[Schema] = [
    _list(COUNT, 3, 3),
    _list(SHORT, 0, 2),
    _list(COLOUR, 1, 3),
    _list(_list(FLAG, 2, 2), 1, 2),
    _list(_POINT, 1, 2),
    _tuple(SHORT, COUNT),
    _tuple(COUNT, FLAG, COLOUR),
    _tuple(_tuple(COUNT, COUNT), _tuple(COUNT, COUNT)),
]
_OBJECTS: list[Schema] = [
    _object({"name": SHORT}),
    _object({"name": SHORT, "age": COUNT}),
    _object({"name": SHORT, "age": COUNT}, ["name"]),
    _object({"name": SHORT, "age": COUNT}, []),
    _object({"a": FLAG, "b": FLAG, "c": FLAG, "d": FLAG}),
    _object({"city": LONGER, "capital": FLAG, "rank": COUNT}),
    _object({"inner": _object({"deep": _object({"deeper": _object({"end": COUNT})})})}),
    _object({"from": _POINT, "to": _POINT}),
    _object({"tags": _list(SHORT, 1, 3), "main": COLOUR}),
    _object({"kind": {"const": "point"}, "at": _POINT}),
    _object({"nothing": {"type": "null"}, "maybe": {"type": ["boolean", "null"]}}, ["nothing"]),
    _object({"ключ": COUNT, "名前": SHORT}),
    _object({"with space": FLAG, "with-dash": FLAG, "UPPER_lower": FLAG}),
    _object({f"field{n}": COUNT for n in range(8)}),
]  # fmt: skip
_CHOICES: list[Schema] = [
    {"anyOf": [COUNT, SHORT]},
    {"anyOf": [{"type": "null"}, _POINT]},
    {"oneOf": [{"const": "a"}, {"const": "b"}]},
    _object({"value": {"anyOf": [FLAG, _list(COUNT, 1, 2)]}}),
    {"anyOf": [_object({"error": SHORT}), _object({"result": COUNT})]},
    {"$defs": {"c": COUNT}, "type": "array", "items": {"$ref": "#/$defs/c"}, "minItems": 2, "maxItems": 2},
    {"$defs": {"p": _POINT}, **_object({"a": {"$ref": "#/$defs/p"}, "b": {"$ref": "#/$defs/p"}})},
]
SCHEMAS: list[Schema] = [*_NUMBERS, *_SCALARS, *_LISTS, *_OBJECTS, *_CHOICES]
assert len(SCHEMAS) == 50
