"""Reads tritonserver's log: what is being loaded, and why a start failed, in one sentence."""

from __future__ import annotations

import re

from conch.contract import ENGINE

# The request log's lines: clients have a say in what they hold, so nothing is to be read from them.
_REQUEST = re.compile(rf'^(?:\S+ {ENGINE.name} INFO request |{{"time": ).*$', re.MULTILINE)
_LOADING = re.compile(r"\"loading: ([\w.-]+):(\d+)\"")
_LOADED = re.compile(r"\"successfully loaded '([\w.-]+)'")
_FAILED = re.compile(r"failed to load '([\w.-]+)' version (\d+): (.*)")
_POLL_FAILED = re.compile(r"Poll failed for model directory '([\w.-]+)': (.*)")
_TEXT_FORMAT = re.compile(r"Error parsing text-format [\w.]+: (.*)")
_SERVICE = re.compile(r"failed to start (\w+) service: \w+ - (.*)")
_CREATING = re.compile(r"^error: creating server: (?:[A-Z][\w ]* - )?(.*)")
_LIBRARY = re.compile(r"error while loading shared libraries: (.*)")
_OPTION = re.compile(r"(unrecognized option .*|.*: option .* requires an argument.*)")
# What Triton and its Python backend put in front of a message.
_PREFIXES = re.compile(r"^(?:(?:Internal|Invalid argument|Not found|Unavailable|Unsupported|TritonModelException): )+")


def loading(log: str) -> list[str]:
    """Models whose load has begun and not ended."""
    log = _REQUEST.sub("", log)
    begun = [match.group(1) for match in _LOADING.finditer(log)]
    ended = {match.group(1) for match in _LOADED.finditer(log)}
    return [name for name in dict.fromkeys(begun) if name not in ended]


def failure_reason(log: str) -> str:
    """Why tritonserver gave up, in one sentence without its stack traces; empty where the log does not say.

    The first failure is the cause: what Triton writes after it follows from it.
    """
    log = _REQUEST.sub("", log)
    text_format = _TEXT_FORMAT.search(log)
    for line in log.splitlines():
        if match := _FAILED.search(line):
            return f"model {match.group(1)} version {match.group(2)} failed to load: {_clean(match.group(3))}"
        if match := _POLL_FAILED.search(line):
            detail = f" ({_clean(text_format.group(1))})" if text_format else ""
            return f"model {match.group(1)}: {_clean(match.group(2))}{detail}"
        if match := _SERVICE.search(line):
            return f"{match.group(1)} could not be served: {_clean(match.group(2))}"
        if match := _LIBRARY.search(line):
            return f"a shared library is missing: {_clean(match.group(1))}"
        if match := _OPTION.search(line):
            return f"tritonserver refused its flags: {_clean(match.group(1))}"
        if match := _CREATING.search(line):
            return _clean(match.group(1))
    return ""


def _clean(text: str) -> str:
    """The first line of a message as Triton logs it: quoted, line ends written as a backslash and an n."""
    first = text.split("\\n")[0].strip().strip('"').strip()
    return _PREFIXES.sub("", first)
