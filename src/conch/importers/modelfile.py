"""The format of Ollama's Modelfile: an instruction to a line, values that may run over lines in quotes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from conch.errors import InvalidArgumentError

INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES", "CAPABILITY")
_WITH_NAME = {"PARAMETER", "MESSAGE"}  # the first word after these names what follows
_ROLES = ("system", "user", "assistant")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: in capitals.
        argument: what PARAMETER sets, or whose a MESSAGE is; empty for the others.
        value: without its quotes.
        line: on which it begins, from 1.
    """

    name: str
    argument: str
    value: str
    line: int


def parse_modelfile(text: str, origin: str) -> list[Instruction]:
    """Read a Modelfile.

    Raises:
        InvalidArgumentError: an unknown instruction, one without a value, or an open quote; names the line.
    """
    found: list[Instruction] = []
    position, line = 0, 1
    while position < len(text):
        end = _end_of_line(text, position)
        content = text[position:end].strip()
        if content and not content.startswith("#"):
            instruction, end = _instruction(text, position, line, origin)
            found.append(instruction)
        line += text.count("\n", position, end + 1)
        position = end + 1
    if not any(instruction.name == "FROM" for instruction in found):
        raise InvalidArgumentError(f"{origin} must have FROM, which names the model")
    return found


def _instruction(text: str, position: int, line: int, origin: str) -> tuple[Instruction, int]:
    """The instruction that begins in this line, and the end of its last line."""
    word = _WORD.search(text, position)
    assert word is not None  # the line is not empty
    name = word[0].upper()
    if name not in INSTRUCTIONS:
        raise InvalidArgumentError(f"{origin}: line {line} must begin with one of {', '.join(INSTRUCTIONS)}, "
                                   f"got {word[0][:40]!r}")  # fmt: skip
    start, argument = word.end(), ""
    if name in _WITH_NAME:
        following = re.compile(r"[^\S\n]+(\S+)").match(text, start)
        if following is None:
            raise InvalidArgumentError(f"{origin}: line {line}: {name} must have a name and a value")
        argument, start = following[1].lower(), following.end()
        if name == "MESSAGE" and argument not in _ROLES:
            roles = ", ".join(_ROLES)
            raise InvalidArgumentError(f"{origin}: line {line}: MESSAGE must be of {roles}, got {argument!r}")
    value, end = _value(text, start, line, origin)
    if not value.strip() and name not in ("SYSTEM", "TEMPLATE", "LICENSE"):
        raise InvalidArgumentError(f"{origin}: line {line}: {name} {argument}".rstrip() + " must have a value")
    return Instruction(name, argument, value, line), end


def _value(text: str, start: int, line: int, origin: str) -> tuple[str, int]:
    while start < len(text) and text[start] in " \t\r":
        start += 1
    for quote in ('"""', '"'):
        if text.startswith(quote, start):
            close = text.find(quote, start + len(quote))
            if close < 0:
                raise InvalidArgumentError(f"{origin}: line {line}: a {quote} is not closed")
            end = _end_of_line(text, close + len(quote))
            rest = text[close + len(quote):end].strip()
            if rest:
                raise InvalidArgumentError(f"{origin}: line {line}: nothing must follow a closing {quote}, "
                                           f"got {rest[:40]!r}")  # fmt: skip
            return text[start + len(quote):close], end
    end = _end_of_line(text, start)
    return text[start:end].strip(), end


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end
