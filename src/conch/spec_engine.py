"""Section ``engine`` of a spec: which runtime, its limits, and what is set for that runtime alone."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from conch.spec_base import Section
from conch.spec_llmapi import LlmApi
from conch.spec_trtllm import TensorRtLlm
from conch.spec_vllm import OTHER_NAMES, Vllm


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
            process is killed and started anew. A step of max_num_tokens must fit. With tensorrtllm, whose process is
            Triton's: longest pause of an answer; then the request fails.
        echo_ttft_ms, echo_itl_ms: what the echo engine plays.
        tensorrt_llm, vllm, llmapi: settings of the runtimes tensorrtllm, vllm and tensorrt_llm, and of no other
            (conch.spec_trtllm, spec_vllm, spec_llmapi). Of the keys above these runtimes have the limits max_*,
            enable_kv_cache_reuse and step_timeout_s.
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
_LIMITS = {
    "runtime", "enable_kv_cache_reuse", "max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len",
    "step_timeout_s",
}  # fmt: skip


def _keys_of(runtime: str) -> set[str]:
    """Keys of Engine that a runtime has."""
    if runtime not in _SECTIONS:
        return set(Engine.model_fields) - set(_SECTIONS.values())
    return _LIMITS | {_SECTIONS[runtime]}


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
