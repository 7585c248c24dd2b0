"""From keyword arguments to a checked request.

Types are checked here, so that a wrong one is the same error on every transport. Ranges are the server's to check.
"""

from __future__ import annotations

import difflib
import json
import math
import numbers
import re
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conch_client import _contract as contract
from conch_client.errors import InvalidArgumentError

_INTEGER_RANGES = {"INT32": (-(2**31), 2**31 - 1), "INT64": (-(2**63), 2**63 - 1), "UINT64": (0, 2**64 - 1)}
_GUIDES = {"json_schema": "json_schema", "regex": "regex", "grammar": "ebnf_grammar"}  # argument -> type of its guide
_JSON = "json"
_NOT_IN_NAME, _NOT_IN_VALUE = re.compile(r"[^A-Za-z0-9_.-]"), re.compile(r"[^ -~]")  # of a header
_ARGUMENTS = (_JSON, *_GUIDES, "prompt", "messages", "model", "version", "request_id", "timeout_s", "headers")

# The counts cost nothing, and a Completion has them.
_DEFAULTS = {"return_num_input_tokens": True, "return_num_output_tokens": True}


@dataclass(frozen=True)
class Request:
    """One generation.

    Attributes:
        model, version: version "" is the one that the server chooses.
        request_id: goes to the server and comes back.
        tensors: (name, dtype, value) of each input; value is a list where the tensor has many elements.
        own_id: the client made the id, so nobody else's request has it.
    """

    model: str
    version: str
    request_id: str
    tensors: tuple[tuple[str, str, Any], ...]
    own_id: bool = False


def build_request(
    *,
    prompt: str | None,
    messages: Sequence[Mapping[str, Any]] | None,
    model: str,
    version: str | int | None,
    request_id: str | None,
    stream: bool,
    parameters: Mapping[str, Any],
) -> Request:
    """Check the arguments of a generation.

    Raises:
        TypeError: a parameter that does not exist; the nearest one is named.
        InvalidArgumentError: a value of the wrong type; no model; not exactly one of prompt and messages; more than
            one guide.
    """
    _refuse_unknown(parameters)
    check_model(model)
    parameters = _with_guide(parameters)
    if (prompt is None) == (messages is None):
        given = "neither" if prompt is None else "both"
        raise InvalidArgumentError(f"exactly one of prompt and messages must be given, got {given}")
    names = contract.RENAMES.get(model, {})
    tensors: list[tuple[str, str, Any]] = []
    if prompt is not None:
        tensors.append((names.get(contract.TEXT_INPUT, contract.TEXT_INPUT), "BYTES", _text("prompt", prompt)))
    if messages is not None:
        tensors.append((contract.MESSAGES, "BYTES", _messages_json(messages)))
    for name, value in {**_DEFAULTS, **parameters}.items():
        control = contract.CONTROLS[name]
        if value is None:
            continue
        if control.dims != (-1,):
            tensors.append((name, control.dtype, _scalar(name, control.dtype, value)))
        elif items := _texts(name, value):  # Triton has no use for a tensor without elements
            tensors.append((name, control.dtype, items))
    tensors.append((contract.STREAM, "BOOL", stream))
    return Request(model, _version(version), _request_id(request_id), tuple(tensors), own_id=request_id is None)


def build_stop(model: str, version: str | int | None, request_id: str) -> Request:
    """A request that ends those that have its id.

    Raises:
        InvalidArgumentError: the id or the model is no text, or empty.
    """
    tensors = ((contract.STOP, "BOOL", True),)
    check_model(model)
    return Request(model, _version(version), _request_id(_text("request_id", request_id)), tensors)


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers that gRPC and HTTP both can send. A value may be a secret, so no message shows one.

    Raises:
        InvalidArgumentError: a name or a value that cannot be.
    """
    checked = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"name of a header must be a string and not empty, got {name!r}")
        if bad := _NOT_IN_NAME.search(name):
            raise InvalidArgumentError(
                f"name of a header must be of letters, digits, '-', '_' and '.', "
                f"got {bad[0]!a} after {name[: bad.start()]!r}"
            )
        if name.lower().endswith("-bin"):
            raise InvalidArgumentError(f"name of a header must not end in -bin, where gRPC takes bytes, got {name!r}")
        if not isinstance(value, str):
            raise InvalidArgumentError(f"header {name} must be a string, got {type(value).__name__}")
        if bad := _NOT_IN_VALUE.search(value):
            raise InvalidArgumentError(
                f"header {name} must be of printable ASCII characters, got {bad[0]!a} at position {bad.start()}"
            )
        checked[name] = value
    return checked


def check_model(model: str) -> str:
    """The name of a model.

    Raises:
        InvalidArgumentError: no text, empty, or what would lead out of its place in an HTTP path.
    """
    if _text("model", model) in ("", ".", ".."):
        raise InvalidArgumentError(f"model must be a name, got {model!r}")
    return model


def _with_guide(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with a guide under the names of the contract."""
    rest = {name: value for name, value in parameters.items() if name not in (_JSON, *_GUIDES)}
    given = {name: parameters[name] for name in _GUIDES if parameters.get(name) is not None}
    any_json = parameters.get(_JSON)
    if any_json not in (None, False, True):
        raise InvalidArgumentError(f"{_JSON} must be True or False, got {any_json!r}")
    names = [*([_JSON] if any_json else []), *given]
    names += [contract.GUIDED_DECODING_GUIDE_TYPE] if rest.get(contract.GUIDED_DECODING_GUIDE_TYPE) else []
    if len(names) > 1:
        raise InvalidArgumentError(f"at most one guide may be given, got {' and '.join(names)}")
    if any_json:
        rest[contract.GUIDED_DECODING_GUIDE_TYPE] = _JSON
    for name, value in given.items():
        rest[contract.GUIDED_DECODING_GUIDE_TYPE] = _GUIDES[name]
        rest[contract.GUIDED_DECODING_GUIDE] = _json_text(name, value) if name == "json_schema" else _text(name, value)
    return rest


def _json_text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return _text(name, value)
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} must be a mapping or JSON text, got {value!r}")
    try:
        return _text(name, json.dumps(dict(value), ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name} must be JSON: {error}") from None


def _refuse_unknown(parameters: Mapping[str, Any]) -> None:
    for name in parameters:
        if name in contract.CONTROLS or name == _JSON or name in _GUIDES:
            continue
        if name == contract.STOP:
            raise TypeError("unexpected keyword argument 'stop': call cancel(request_id)")
        if name == contract.STREAM:
            raise TypeError("unexpected keyword argument 'stream': call stream() for a stream, generate() for a whole")
        near = difflib.get_close_matches(name, [*contract.CONTROLS, *_ARGUMENTS], n=1)
        raise TypeError(f"unexpected keyword argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _scalar(name: str, dtype: str, value: Any) -> bool | int | float | str:
    if dtype == "BOOL":
        if not isinstance(value, bool):
            raise InvalidArgumentError(f"{name} must be True or False, got {value!r}")
        return value
    if dtype == "BYTES":
        return _text(name, value)
    if dtype == "FP32":
        return _float(name, value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidArgumentError(f"{name} must be an integer, got {value!r}")
    number = int(value)
    low, high = _INTEGER_RANGES[dtype]
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name} must be in [{low}, {high}], got {number}")
    return number


def _float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidArgumentError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
        struct.pack("<f", number)
    except OverflowError:
        raise InvalidArgumentError(f"{name} must fit a 32-bit float, got {value!r}") from None
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{name} must be a finite number, got {value!r}")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a string, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{name} must be valid Unicode, got a lone surrogate") from None
    return value


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidArgumentError(f"{name} must be a list of strings, got {value!r}")
    return [_text(f"{name}[{index}]", item) for index, item in enumerate(value)]


def _messages_json(messages: Any) -> str:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidArgumentError(f"messages must be a list of {{role, content}}, got {messages!r}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InvalidArgumentError(f"messages[{index}] must be a mapping with role and content, got {message!r}")
    try:
        text = json.dumps([dict(m) for m in messages], ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"messages must be JSON: {error}") from None
    return _text("messages", text)


def _version(version: str | int | None) -> str:
    text = "" if version is None else str(version)
    if text and not (text.isascii() and text.isdigit()):
        raise InvalidArgumentError(f"version must be a number, got {version!r}")
    return text


def _request_id(request_id: str | None) -> str:
    if request_id is None:
        return uuid.uuid4().hex
    if not request_id:
        raise InvalidArgumentError("request_id must not be empty")
    return _text("request_id", request_id)
