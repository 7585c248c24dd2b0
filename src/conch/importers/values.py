"""Values of other systems' files, read strictly: a value that is not what it should be is a problem, not a guess."""

from __future__ import annotations

import math
import re
from typing import Any

from conch.importers.draft import Draft, Field

_TRUE = {"true", "1", "yes", "on", "enable", "enabled"}
_FALSE = {"false", "0", "no", "off", "disable", "disabled"}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([kKmM])")
_SUFFIXES = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}
_LARGEST = 1 << 62


def whole(draft: Draft, field: Field, least: int = 1) -> int | None:
    """A whole number, also as text, and as vLLM writes large ones (``32k`` is 32,000, ``32K`` 32,768)."""
    value = field.value
    if isinstance(value, str):
        size = _SIZE.fullmatch(value.strip())
        if size and (float(size[1]) * _SUFFIXES[size[2]]).is_integer():
            value = int(float(size[1]) * _SUFFIXES[size[2]])
        elif re.fullmatch(r"[+-]?\d{1,18}", value.strip()) and value.isascii():
            value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        draft.refuse(f"{field.name} must be a whole number >= {least}, got {field.shown}")
        return None
    return value


def number(draft: Draft, field: Field, least: float, most: float) -> float | None:
    """A finite number in (least, most], also as text."""
    value = field.value
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least < value <= most:
        draft.refuse(f"{field.name} must be a number in ({least:g}, {most:g}], got {field.shown}")
        return None
    return float(value)


def truth(draft: Draft, field: Field) -> bool | None:
    """True or false, also as text or as a flag without a value (None)."""
    value = field.value
    if isinstance(value, bool):
        return value
    if value is None:
        return True
    word = str(value).strip().casefold()
    if word in _TRUE | _FALSE:
        return word in _TRUE
    draft.refuse(f"{field.name} must be true or false, got {field.shown}")
    return None


def text(draft: Draft, field: Field) -> str | None:
    """Text that is not empty, and is one line."""
    value = field.value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)  # a model called 7b is text, one called 123 is a number to YAML
    if not isinstance(value, str) or not value.strip() or not value.strip().isprintable():
        draft.refuse(f"{field.name} must be text, got {field.shown}")
        return None
    return value.strip()


def choice(draft: Draft, field: Field, choices: dict[str, Any]) -> tuple[bool, Any]:
    """One of some words, case aside; whether it is one, and what it stands for."""
    word = str(field.value).strip().casefold()
    if isinstance(field.value, (dict, list)) or word not in choices:
        draft.refuse(f"{field.name} must be one of {', '.join(choices)}, got {field.shown}")
        return False, None
    return True, choices[word]
