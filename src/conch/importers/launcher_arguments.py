"""Environment variables and command lines as people keep them: .env files, shell scripts, ``docker run`` lines."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from conch.errors import InvalidArgumentError
from conch.importers.draft import Field

_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_LAUNCHER, _IMAGE = "text-generation-launcher", "text-generation-inference"
_CONTAINERS = {"docker", "podman"}
_RUNNERS = {"sudo", "exec", "export", "run", "env", "nohup"}
_FLAGS_OF_DOCKER = {"--rm", "-d", "--detach", "-it", "-ti", "-i", "-t", "--init", "--privileged"}
_USE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
_NEGATIVE = re.compile(r"-\d+(\.\d+)?")


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: in the form of an environment variable, ``MAX_TOTAL_TOKENS``.
        field: as it was written; a flag without a value has None.
        of_container: it is docker's, not the launcher's.
        of_script: a variable that only other lines of the script use.
    """

    name: str
    field: Field
    of_container: bool = False
    of_script: bool = False


def read_settings(text: str, origin: str, flags: frozenset[str], secrets: frozenset[str]) -> Iterator[Setting]:
    """The settings of a file, in its order.

    Args:
        text: of the file.
        origin: its name, for messages.
        flags: names of arguments that may stand without a value.
        secrets: names whose values are never shown.

    Raises:
        InvalidArgumentError: a quote is not closed, or a word is neither variable nor argument.
    """
    used = set(_USE.findall(text))
    variables: dict[str, str] = {}
    for line, words in _commands(text, origin):
        replaced = [_replaced(word, variables) for word in words]
        for setting in _Command(replaced, line, origin, flags, secrets).settings():
            if not setting.field.name.startswith("-") and setting.field.value is not None:
                variables[setting.field.name] = setting.field.value
            elif not setting.of_container and _USE.search(str(setting.field.value)):
                raise InvalidArgumentError(f"{origin}: line {line}: {setting.field.name} {setting.field.shown} uses a "
                                           "variable that the file does not set")  # fmt: skip
            yield replace(setting, of_script=setting.field.name in used and setting.field.name.islower())


class _Command:
    """One command line, or line of variables. Docker's own arguments stand before the name of the image."""

    def __init__(
        self, words: list[str], line: int, origin: str, flags: frozenset[str], secrets: frozenset[str]
    ) -> None:
        self._words = deque(words)
        self._line, self._origin, self._flags, self._secrets = line, origin, flags, secrets
        self._before_image = False

    def settings(self) -> Iterator[Setting]:
        while self._words:
            word = self._words.popleft()
            if word in _CONTAINERS:
                self._before_image = True
            elif word.endswith(_LAUNCHER) or _IMAGE in word:
                self._before_image = False
            elif _VARIABLE.fullmatch(word):
                yield _variable(word, self._line, self._secrets)
            elif word.startswith("-") and len(word) > 1:
                yield from self._argument(word)
            elif word not in _RUNNERS:
                raise InvalidArgumentError(
                    f"{self._origin}: line {self._line} must hold NAME=value or --name value, got {word[:60]!r}"
                )

    def _argument(self, word: str) -> Iterator[Setting]:
        if self._before_image and word in ("-e", "--env"):
            return  # the variable is the next word
        name, equals, value = word.partition("=")
        if self._before_image and name == "--env" and _VARIABLE.fullmatch(value):
            yield _variable(value, self._line, self._secrets)
            return
        known = name.lstrip("-").replace("-", "_").upper()
        taken: str | None = value if equals else None
        if not equals and self._value_follows(name, known):
            taken = self._words.popleft()
        yield Setting(known, Field(name, taken, self._line, known in self._secrets), self._before_image)

    def _value_follows(self, name: str, known: str) -> bool:
        following = self._words[0] if self._words else "-"
        if following.startswith("-") and not _NEGATIVE.fullmatch(following):
            return False
        if self._before_image:
            return name not in _FLAGS_OF_DOCKER and _IMAGE not in following
        return known not in self._flags or following.casefold() in ("true", "false")


def _replaced(word: str, variables: dict[str, str]) -> str:
    return _USE.sub(lambda use: variables.get(use[1], use[0]), word)


def _variable(word: str, line: int, secrets: frozenset[str]) -> Setting:
    name, _, value = word.partition("=")
    return Setting(name.upper(), Field(name, value, line, name.upper() in secrets))


def _commands(text: str, origin: str) -> Iterator[tuple[int, list[str]]]:
    """Lines joined at their backslashes, in words; with the number of the first line."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not joined:
            first = number
        if line.rstrip().endswith("\\") and not line.lstrip().startswith("#"):
            joined += line.rstrip()[:-1] + " "
            continue
        try:
            yield first, shlex.split(joined + line, comments=True)
        except ValueError as error:
            raise InvalidArgumentError(f"{origin}: line {first} cannot be read: {error}") from None
        joined = ""
    if joined:
        try:
            yield first, shlex.split(joined, comments=True)
        except ValueError as error:
            raise InvalidArgumentError(f"{origin}: line {first} cannot be read: {error}") from None
