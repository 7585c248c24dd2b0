"""What a spec for TensorRT-LLM means to the planner."""

from __future__ import annotations

import re

from conch.errors import InvalidArgumentError, UnsupportedError
from conch.memory_plan.architecture import Architecture
from conch.memory_plan.deployment import Deployment, Dtype, KvCacheType, Quantization
from conch.memory_plan.gpus import Gpu
from conch.spec import Engine, ModelSpec
from conch.spec_trtllm import TensorRtLlm

# qformat of the spec -> what the weights take
_QFORMATS = {
    "full_prec": Quantization.NONE, "fp8": Quantization.FP8, "fp8_pc_pt": Quantization.FP8,
    "nvfp4": Quantization.NVFP4, "int8_sq": Quantization.INT8, "int8_wo": Quantization.INT8,
    "int4_awq": Quantization.INT4_AWQ, "w4a8_awq": Quantization.INT4_AWQ, "int4_wo": Quantization.INT4,
}  # fmt: skip
_TRT = "engine.tensorrt_llm"
# Names of a deployment that stand in messages -> keys of a spec.
_KEYS = {
    "max_batch_size": "engine.max_batch_size", "max_input_len": "engine.max_input_len",
    "max_seq_len": "engine.max_seq_len", "max_num_tokens": "engine.max_num_tokens",
    "max_beam_width": f"{_TRT}.build.max_beam_width", "tp_size": f"{_TRT}.tp_size", "pp_size": f"{_TRT}.pp_size",
    "tokens_per_block": f"{_TRT}.plugin_config.tokens_per_block",
    "group_size": f"{_TRT}.quantization.awq_block_size", "quantization": f"{_TRT}.quantization.qformat",
    "kv_cache_type": f"{_TRT}.quantization.kv_cache_dtype",
    "max_tokens_in_paged_kv_cache": f"{_TRT}.backend.max_tokens_in_paged_kv_cache",
    "kv_cache_free_gpu_mem_fraction": f"{_TRT}.backend.kv_cache_free_gpu_mem_fraction",
}  # fmt: skip
_NAME = re.compile(rf"(?<![\w.])({'|'.join(_KEYS)})(?!\w)")


def in_spec_words(text: str) -> str:
    """A message of the planner with the spec's keys in it."""
    return _NAME.sub(lambda found: _KEYS[found[1]], text.replace("quantization: int8", "quantization: int8_sq"))


def dtype_of(model: Architecture) -> Dtype:
    """The dtype that TensorRT-LLM's ``auto`` chooses: the checkpoint's, and float16 for float32."""
    return Dtype.BFLOAT16 if model.dtype == Dtype.BFLOAT16.value else Dtype.FLOAT16


def deployment_of(spec: ModelSpec, model: Architecture, gpu: Gpu) -> Deployment:
    """The deployment that a spec asks for.

    Raises:
        UnsupportedError: the spec is not for TensorRT-LLM.
        InvalidArgumentError: it is compiled for another kind of GPU.
    """
    engine, settings = spec.engine, spec.engine.tensorrt_llm
    if settings is None:
        raise UnsupportedError(f"spec must have the runtime tensorrtllm, got {engine.runtime.value}")
    capability = "{}.{}".format(*gpu.compute_capability)
    if settings.compute_capability not in (None, capability):
        raise InvalidArgumentError(
            f"gpu must have the spec's compute capability {settings.compute_capability}, got {gpu.name} with "
            f"{capability}"
        )
    return engine_deployment(engine, settings, model)


def engine_deployment(engine: Engine, settings: TensorRtLlm, model: Architecture) -> Deployment:
    """The deployment that the section ``engine`` of a spec asks for, on whatever GPU."""
    quantization = settings.quantization
    return Deployment(
        dtype=dtype_of(model) if settings.dtype == "auto" else Dtype(settings.dtype),
        quantization=_QFORMATS[quantization.qformat], group_size=quantization.awq_block_size,
        kv_cache_type=KvCacheType(quantization.kv_cache_dtype or "auto"), tp_size=settings.tp_size,
        pp_size=settings.pp_size, max_batch_size=engine.max_batch_size, max_input_len=engine.max_input_len or 0,
        max_seq_len=engine.max_seq_len or 0, max_num_tokens=engine.max_num_tokens,
        max_beam_width=settings.build.max_beam_width, tokens_per_block=settings.plugin_config.tokens_per_block,
        kv_cache_free_gpu_mem_fraction=settings.backend.kv_cache_free_gpu_mem_fraction,
        max_tokens_in_paged_kv_cache=settings.backend.max_tokens_in_paged_kv_cache or 0,
    )  # fmt: skip
