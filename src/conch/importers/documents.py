"""Files that hold one mapping: JSON, YAML, or a dict as Python writes it. With the line of each key."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import yaml

from conch.errors import InvalidArgumentError
from conch.importers.draft import Field

_DEEPEST = 8
_MOST_VALUES = 10_000
_ASSIGNED = re.compile(r"\s*(?:[A-Za-z_]\w*\s*(?::\s*[\w\[\], ]+)?=\s*)?(?=[{d])")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice."""


def _unique(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = str(getattr(key_node, "value", ""))
        if key in seen:
            raise InvalidArgumentError(f"{key} is written twice (line {key_node.start_mark.line + 1})")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def read_mapping(text: str, origin: str) -> dict[str, Any]:
    """The mapping that a text holds.

    Args:
        text: JSON, YAML, or Python: a dict, perhaps with ``name =`` before it.
        origin: name of the file, for messages.

    Raises:
        InvalidArgumentError: it is none of them, a key is written twice, or it is nested too deep.
    """
    try:
        data = _json_or_python(text)
        if data is None:
            data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{origin}: {error.message}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InvalidArgumentError(f"{origin} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise InvalidArgumentError(f"{origin} must hold a mapping of names to values")
    _check_shape(data, origin)
    return data


def fields(data: dict[str, Any], text: str, start: int = 0) -> Iterator[tuple[Field, int]]:
    """The fields of a mapping, each with where its key ends in the text, which is where to look on."""
    for key, value in data.items():
        found = re.compile(rf"(?m)(?:^|[\s{{,(])[\"']?{re.escape(str(key))}[\"']?\s*[:=]").search(text, start)
        start = found.end() if found else start
        line = text.count("\n", 0, start) + 1 if found else 0
        yield Field(str(key), value, line), start


def _json_or_python(text: str) -> Any:
    body = _ASSIGNED.sub("", text, count=1) if text.lstrip()[:1].isidentifier() else text
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except ValueError:
        pass
    if not body.lstrip().startswith(("{", "dict(")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash in somebody's text
            tree = ast.parse(body.strip(), mode="eval").body
        if isinstance(tree, ast.Call) and not tree.args and getattr(tree.func, "id", "") == "dict":
            return _pairs([(str(word.arg), ast.literal_eval(word.value)) for word in tree.keywords])
        _check_python_keys(tree)
        return ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _check_python_keys(tree: ast.expr) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _pairs([(str(key.value), None) for key in node.keys if isinstance(key, ast.Constant)])


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise InvalidArgumentError(f"{key} is written twice")
        data[key] = value
    return data


def _check_shape(data: dict[str, Any], origin: str) -> None:
    """Refuse what is nested too deep, or has too much: YAML can repeat a part by its name, even inside itself."""
    seen, level = 0, [data]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                strange = next((key for key in value if not isinstance(key, str)), None)
                if strange is not None:
                    raise InvalidArgumentError(f"{origin}: names must be text, got {strange!r}")
                below += value.values()
            elif isinstance(value, (list, tuple, set)):
                below += value
            seen += 1
            if seen + len(below) > _MOST_VALUES:
                raise InvalidArgumentError(f"{origin} must hold at most {_MOST_VALUES} values")
        level = below
    if level:
        raise InvalidArgumentError(f"{origin} must be nested at most {_DEEPEST} deep")
