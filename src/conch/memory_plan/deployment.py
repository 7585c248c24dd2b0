"""How a model is to be served: precision, parallelism and limits, by TensorRT-LLM's names; and what rules out what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from conch.errors import InvalidArgumentError, UnsupportedError
from conch.memory_plan.architecture import Architecture
from conch.memory_plan.gpus import Gpu


class Dtype(str, Enum):
    """Precision of activations, and of weights that are not quantized."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"

    @property
    def bytes(self) -> int:
        """Bytes of one number."""
        return 4 if self is Dtype.FLOAT32 else 2


class Quantization(str, Enum):
    """What the matrices of attention and MLP are stored in."""

    NONE = "none"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    INT4_AWQ = "int4_awq"
    NVFP4 = "nvfp4"


class KvCacheType(str, Enum):
    """What keys and values are stored in; ``auto`` is the dtype."""

    AUTO = "auto"
    FP8 = "fp8"
    INT8 = "int8"


# quant_method of a checkpoint that was quantized by somebody else -> what that is here
_CHECKPOINT_METHODS = {"awq": Quantization.INT4_AWQ, "fp8": Quantization.FP8}
_GROUP_SIZES = (64, 128)  # of TensorRT-LLM's int4_awq
_LIMITS = {
    "tp_size": 1024, "pp_size": 1024, "max_batch_size": 1 << 16, "max_num_tokens": 1 << 24, "max_beam_width": 1 << 10,
    "tokens_per_block": 1 << 10,
}  # fmt: skip


@dataclass(frozen=True)
class Deployment:
    """How a model is served.

    Attributes:
        dtype, quantization, kv_cache_type: precision.
        group_size: columns that share a scale, for int4_awq.
        tp_size, pp_size: GPUs that share each layer; groups of GPUs that share the layers.
        max_batch_size: sequences in flight at once.
        max_input_len: most tokens of a prompt; 0: max_seq_len - 1.
        max_seq_len: most tokens of prompt and answer together; 0: the model's context.
        max_num_tokens: most tokens computed in one step.
        max_beam_width: beams of one sequence.
        kv_cache_free_gpu_mem_fraction: part of the memory that is free after loading that becomes KV cache.
        max_tokens_in_paged_kv_cache: most tokens of the KV cache; 0: what that part holds. The smaller one rules.
        tokens_per_block: tokens in one block of the paged KV cache.
        use_parallel_embedding: the embedding table is split over tp_size GPUs instead of copied to each.
    """

    dtype: Dtype = Dtype.FLOAT16
    quantization: Quantization = Quantization.NONE
    kv_cache_type: KvCacheType = KvCacheType.AUTO
    group_size: int = 128
    tp_size: int = 1
    pp_size: int = 1
    max_batch_size: int = 64
    max_input_len: int = 0
    max_seq_len: int = 0
    max_num_tokens: int = 8192
    max_beam_width: int = 1
    kv_cache_free_gpu_mem_fraction: float = 0.9
    max_tokens_in_paged_kv_cache: int = 0
    tokens_per_block: int = 32
    use_parallel_embedding: bool = False

    @property
    def world_size(self) -> int:
        """GPUs in all."""
        return self.tp_size * self.pp_size

    @property
    def kv_bytes(self) -> int:
        """Bytes of one number in the KV cache."""
        return self.dtype.bytes if self.kv_cache_type is KvCacheType.AUTO else 1

    @property
    def quantized_bits(self) -> float:
        """Bits of one quantized weight, its share of the scales of its group among them."""
        return {
            Quantization.NONE: 8.0 * self.dtype.bytes,
            Quantization.FP8: 8.0,  # one scale for a matrix
            Quantization.INT8: 8.0,  # one scale for a column
            Quantization.INT4: 4.0,  # the same
            Quantization.INT4_AWQ: 4 + 16 / self.group_size,  # a 16-bit scale for a group
            Quantization.NVFP4: 4 + 8 / 16,  # an FP8 scale for 16 weights
        }[self.quantization]


def seq_len(model: Architecture, deployment: Deployment) -> int:
    """Most tokens of one sequence: max_seq_len, or the model's context."""
    return deployment.max_seq_len or model.context


def input_len(model: Architecture, deployment: Deployment) -> int:
    """Most tokens of one prompt: max_input_len, or all but one of a sequence."""
    return deployment.max_input_len or seq_len(model, deployment) - 1


def check(model: Architecture, deployment: Deployment, gpu: Gpu) -> None:
    """Refuse what cannot be, whatever the memory.

    Raises:
        InvalidArgumentError: a number out of its range, or two that contradict each other, or the model.
        UnsupportedError: the GPU cannot compute it.
    """
    check_model(model, deployment)
    check_gpu(deployment, gpu)


def check_model(model: Architecture, deployment: Deployment) -> None:
    """Refuse what cannot be on any GPU.

    Raises:
        InvalidArgumentError: as ``check``.
    """
    _check_ranges(deployment)
    _check_lengths(model, deployment)
    check_split(model, deployment)
    _check_checkpoint(model, deployment)


def check_gpu(deployment: Deployment, gpu: Gpu) -> None:
    """Refuse what the GPU cannot compute.

    Raises:
        UnsupportedError: names setting, GPU and its compute capability.
    """
    capability = "{}.{}".format(*gpu.compute_capability)
    if not gpu.runs_tensorrt_llm:
        raise UnsupportedError(f"gpu must have compute capability 8.0 or more for TensorRT-LLM 1.2, got {gpu.name} "
                               f"with {capability}")  # fmt: skip
    eight_bits = "Take quantization int8 or int4_awq, or a GPU of Ada, Hopper or Blackwell"
    if deployment.quantization is Quantization.FP8 and not gpu.has_fp8:
        raise UnsupportedError(f"quantization fp8 needs compute capability 8.9 or more (Ada, Hopper, Blackwell), got "
                               f"{gpu.name} with {capability}", mend=eight_bits)  # fmt: skip
    if deployment.kv_cache_type is KvCacheType.FP8 and not gpu.has_fp8:
        raise UnsupportedError(f"kv_cache_type fp8 needs compute capability 8.9 or more (Ada, Hopper, Blackwell), got "
                               f"{gpu.name} with {capability}", mend="Take kv_cache_type int8 or auto")  # fmt: skip
    if deployment.quantization is Quantization.NVFP4 and not gpu.has_nvfp4:
        mend = "Take quantization fp8" if gpu.has_fp8 else eight_bits
        raise UnsupportedError(f"quantization nvfp4 needs compute capability 10.0 or more (Blackwell), got {gpu.name} "
                               f"with {capability}", mend=mend)  # fmt: skip


def _check_ranges(deployment: Deployment) -> None:
    for name, most in _LIMITS.items():
        value = getattr(deployment, name)
        if not 1 <= value <= most:
            raise InvalidArgumentError(f"{name} must be in [1, {most}], got {value}")
    for name in ("max_input_len", "max_seq_len"):
        if not 0 <= getattr(deployment, name) <= 1 << 24:
            raise InvalidArgumentError(f"{name} must be in [1, {1 << 24}], got {getattr(deployment, name)}")
    if deployment.max_tokens_in_paged_kv_cache < 0:
        raise InvalidArgumentError(f"max_tokens_in_paged_kv_cache must be >= 0, "
                                   f"got {deployment.max_tokens_in_paged_kv_cache}")  # fmt: skip
    fraction = deployment.kv_cache_free_gpu_mem_fraction
    if not math.isfinite(fraction) or not 0 < fraction <= 1:
        raise InvalidArgumentError(f"kv_cache_free_gpu_mem_fraction must be in (0, 1], got {fraction}")
    if deployment.quantization is Quantization.INT4_AWQ and deployment.group_size not in _GROUP_SIZES:
        raise InvalidArgumentError(f"group_size must be 64 or 128 for int4_awq, got {deployment.group_size}")


def _check_lengths(model: Architecture, deployment: Deployment) -> None:
    longest = seq_len(model, deployment)
    if not longest:
        raise InvalidArgumentError("max_seq_len must be given: config.json has no max_position_embeddings")
    if model.context and longest > model.context:
        raise InvalidArgumentError(f"max_seq_len must be <= {model.context}, the model's context, got {longest}")
    if deployment.max_input_len >= longest:
        raise InvalidArgumentError(f"max_input_len must be < max_seq_len {longest} (one token of answer must fit), "
                                   f"got {deployment.max_input_len}")  # fmt: skip
    if deployment.max_batch_size * deployment.max_beam_width > deployment.max_num_tokens:
        raise InvalidArgumentError(
            f"max_num_tokens must be >= max_batch_size * max_beam_width "
            f"{deployment.max_batch_size * deployment.max_beam_width} (each sequence computes a token in a step), "
            f"got {deployment.max_num_tokens}"
        )


def check_split(model: Architecture, deployment: Deployment) -> None:
    """Refuse a tp_size or pp_size that does not divide the model.

    Raises:
        InvalidArgumentError: names the sizes, and for tp_size those up to 8 that do.
    """
    reason = _why_not_split(model, deployment, deployment.tp_size)
    if reason:
        good = [str(tp) for tp in range(1, 9) if not _why_not_split(model, deployment, tp)]
        mend = f"Possible up to 8: {', '.join(good)}" if good else ""
        raise InvalidArgumentError(f"tp_size must {reason}, got {deployment.tp_size}", mend=mend)
    if deployment.pp_size > model.num_layers:
        raise InvalidArgumentError(f"pp_size must be <= num_hidden_layers {model.num_layers}, "
                                   f"got {deployment.pp_size}")  # fmt: skip


def _why_not_split(model: Architecture, deployment: Deployment, tp: int) -> str:
    if model.num_heads % tp:
        return f"divide num_attention_heads {model.num_heads}"
    if model.num_kv_heads % tp and tp % model.num_kv_heads:
        return f"divide num_key_value_heads {model.num_kv_heads}, or be a multiple of it"
    columns = [model.intermediate_size]
    columns += [model.shared_intermediate_size] if model.shared_intermediate_size else []
    columns += [model.dense_intermediate_size] if model.dense_layers else []
    for size in columns:
        if size % tp:
            return f"divide intermediate_size {size}"
    if deployment.quantization is Quantization.INT4_AWQ:
        if model.hidden_size % deployment.group_size:
            return f"go with a group_size that divides hidden_size {model.hidden_size}, not {deployment.group_size}"
        for size in (model.num_heads * model.head_dim, *columns):
            if size // tp % deployment.group_size:
                return f"leave a multiple of group_size {deployment.group_size} of {size} columns on each GPU"
    return ""


def _check_checkpoint(model: Architecture, deployment: Deployment) -> None:
    if not model.quantization:
        return
    is_now = _CHECKPOINT_METHODS.get(model.quantization)
    if is_now is None:
        known = ", ".join(_CHECKPOINT_METHODS)
        raise InvalidArgumentError(f"quant_method of the checkpoint must be one of {known}, got {model.quantization!r}",
                                   mend="Take the checkpoint that was not quantized")  # fmt: skip
    if deployment.quantization is not is_now:
        raise InvalidArgumentError(f"quantization must be {is_now.value}, as the checkpoint is, "
                                   f"got {deployment.quantization.value}")  # fmt: skip
