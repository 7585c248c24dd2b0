"""A spec while it is written, and the account of where each field went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from conch.errors import InvalidArgumentError, SpecError
from conch.spec import ModelSpec, parse_spec

_SECRET = "***"


class Fate(str, Enum):
    """What became of a field."""

    MAPPED = "mapped"
    DROPPED = "dropped"
    UNKNOWN = "unknown"
    ASSUMED = "assumed"  # nothing said it, and the spec needs it


@dataclass(frozen=True)
class Field:
    """One setting of the file that is read.

    Attributes:
        name: as the file writes it.
        value: as the file means it.
        line: where, from 1; 0 if that is not known.
        secret: the value is never shown.
    """

    name: str
    value: Any
    line: int = 0
    secret: bool = False

    @property
    def shown(self) -> str:
        """The value, cut for a line of the account."""
        text = _SECRET if self.secret else " ".join(str(self.value).split())
        return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Entry:
    """One line of the account.

    Attributes:
        fate: what became of it.
        field: the field of the file; None for what was assumed.
        key, value: of the spec, where there is one.
        note: why, or what is different there; empty if there is nothing to say.
    """

    fate: Fate
    field: Field | None
    key: str = ""
    value: Any = None
    note: str = ""


@dataclass(frozen=True)
class Imported:
    """What an importer made.

    Attributes:
        spec: checked.
        text: its YAML.
        account: every field of the file, in its order, then what was assumed.
    """

    spec: ModelSpec
    text: str
    account: tuple[Entry, ...]


class Draft:
    """Collects keys of the spec, the account, and what is wrong."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}
        self._set_by: dict[str, Field] = {}
        self._entries: list[Entry] = []
        self._problems: list[str] = []
        self._mends: list[str] = []

    def map(self, field: Field, key: str, value: Any, note: str = "") -> None:
        """Set a key of the spec. Another field that has set it to another value contradicts this one."""
        other = self._set_by.get(key)
        if other is not None and self.get(key) != value:
            self.refuse(f"{other.name} {other.shown} and {field.name} {field.shown} contradict each other")
            return
        self._set_by[key] = field
        self._put(key, value)
        self._entries.append(Entry(Fate.MAPPED, field, key, value, note))

    def drop(self, field: Field, why: str) -> None:
        """Account for a field that has no key in the spec."""
        self._entries.append(Entry(Fate.DROPPED, field, note=why))

    def unknown(self, field: Field, whose: str) -> None:
        """Account for a field that nobody knows."""
        self._entries.append(Entry(Fate.UNKNOWN, field, note=f"{whose} has no such field"))

    def assume(self, key: str, value: Any, why: str) -> None:
        """Set a key that no field has set; nothing if one has."""
        if self.get(key) is None:
            self._put(key, value)
            self._entries.append(Entry(Fate.ASSUMED, None, key, value, why))

    def refuse(self, problem: str, mend: str = "") -> None:
        """Note what is wrong; ``finish`` raises all of it together."""
        self._problems.append(problem)
        if mend and mend not in self._mends:
            self._mends.append(mend)

    def get(self, key: str) -> Any:
        """The value of a key, ``engine.max_seq_len``; None if it has none."""
        node: Any = self._data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def setter(self, key: str) -> Field | None:
        """The field that has set a key."""
        return self._set_by.get(key)

    def finish(self, origin: str, strict: bool = False) -> Imported:
        """Check the spec.

        Args:
            origin: name of the file, for messages.
            strict: an unknown field is refused.

        Raises:
            InvalidArgumentError: contradictions, values that cannot be, or, if strict, unknown fields; all of them.
        """
        if strict:
            for entry in self._entries:
                if entry.fate is Fate.UNKNOWN and entry.field is not None:
                    self._problems.append(f"unknown field {entry.field.name}")
        if self._problems:
            raise InvalidArgumentError(f"{origin}: " + "; ".join(self._problems), mend=". ".join(self._mends))
        text = yaml.safe_dump(_ordered(self._data), sort_keys=False, allow_unicode=True, width=100)
        try:
            spec = parse_spec(text, origin)
        except SpecError as error:
            raise InvalidArgumentError(self._in_their_words(error.message)) from None
        account = sorted(self._entries, key=lambda e: (e.fate is Fate.ASSUMED, e.field.line if e.field else 0))
        return Imported(spec, text, tuple(account))

    def _in_their_words(self, message: str) -> str:
        """A message about keys of the spec, with the fields that they came from."""
        named = [f"{field.name} ({key.rsplit('.', 1)[-1]})" for key, field in self._set_by.items()
                 if key.rsplit(".", 1)[-1] in message and key.rsplit(".", 1)[-1] != field.name]  # fmt: skip
        return f"{message}; set by {', '.join(dict.fromkeys(named))}" if named else message

    def _put(self, key: str, value: Any) -> None:
        *sections, last = key.split(".")
        node = self._data
        for part in sections:
            node = node.setdefault(part, {})
        node[last] = value


def _ordered(data: dict[str, Any], section: type[BaseModel] = ModelSpec) -> dict[str, Any]:
    """Keys in the order in which the spec declares them."""
    found: dict[str, Any] = {}
    for key, declared in section.model_fields.items():
        if key not in data:
            continue
        inner = [kind for kind in (declared.annotation, *get_args(declared.annotation))
                 if isinstance(kind, type) and issubclass(kind, BaseModel)]  # fmt: skip
        found[key] = _ordered(data[key], inner[0]) if inner and isinstance(data[key], dict) else data[key]
    return found
