"""Section ``engine.vllm`` of a spec: what vLLM 0.24.0 is told.

Keys are those of vLLM's EngineArgs (vllm/engine/arg_utils.py). What is not here is vLLM's to decide, or Conch's: paths,
and the limits that every runtime has under one name (OTHER_NAMES).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from conch.spec_base import Section

VERSION: Literal["0.24.0"] = "0.24.0"
# Triton's containers that carry vLLM, by tag (<tag>-vllm-python-py3): version inside. From Triton's
# docs/introduction/compatibility.md.
CONTAINERS = {"26.07": "0.24.0", "26.06": "0.22.1", "26.05": "0.19.0", "26.04": "0.19.0", "26.03": "0.17.1",
              "25.12": "0.11.1"}  # fmt: skip
_TAG = re.compile(r":(\d\d\.\d\d)-vllm-python-py3")
# vLLM's name -> the key of ``engine`` that says the same for every runtime. Both may be written, not both at once.
OTHER_NAMES = {
    "max_model_len": "max_seq_len", "max_num_seqs": "max_batch_size", "max_num_batched_tokens": "max_num_tokens",
    "enable_prefix_caching": "enable_kv_cache_reuse",
}  # fmt: skip

Dtype = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]
Quantization = Literal[
    "awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel",
    "int8_per_channel_weight_only", "experts_int8", "modelopt", "modelopt_fp4", "compressed-tensors", "bitsandbytes",
    "mxfp4", "mxfp8", "quark", "torchao",
]  # fmt: skip
KvCacheDtype = Literal["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"]
LoadFormat = Literal["auto", "hf", "safetensors", "dummy", "fastsafetensors", "runai_streamer", "bitsandbytes"]


class LoraModule(Section):
    """One adapter.

    Attributes:
        id: what a request names it by, as ``lora_task_id``.
        name: for the log.
        path: its folder, where the server sees it.
    """

    id: int = Field(ge=1, le=1 << 31)
    name: str = Field(min_length=1, max_length=128)
    path: str = Field(min_length=1)


class Vllm(Section):
    """vLLM: serves a Hugging Face checkpoint as it is.

    Attributes:
        version: of vLLM; another one is refused.
        container: Triton's container that carries that version. Conch does not start it (docs/runtimes.md).
        tensor_parallel_size, pipeline_parallel_size: GPUs that share every layer, and groups of layers on different
            GPUs.
        dtype, quantization, kv_cache_dtype: formats; None: what the checkpoint says.
        gpu_memory_utilization: share of each GPU's memory that vLLM may take.
        kv_cache_memory_bytes: bytes for the KV cache, of each GPU, instead of what that share leaves. On a CPU the
            usual way to say it.
        cpu_offload_gb: GiB of weights, of each GPU, that stay in the machine's memory.
        block_size: tokens of a block of the KV cache; None: vLLM's choice.
        enable_chunked_prefill: a long prompt is computed in several steps.
        scheduling_policy: priority: where the KV cache runs out, a request of the least important priority waits.
        enforce_eager: no CUDA graphs, no torch.compile: starts sooner, runs slower.
        seed: of draws by requests that name none.
        load_format: how weights are read.
        trust_remote_code: lets vLLM run Python code of the checkpoint. The build brings no code, so only a model
            whose code is in vLLM loads all the same.
        enable_lora, lora_modules, max_loras, max_lora_rank, max_cpu_loras: adapters; requests name them by id.
        enable_expert_parallel: experts of a mixture are shared out, instead of cut up.
        disable_custom_all_reduce: NCCL adds up between GPUs, instead of vLLM's own kernel.
        async_scheduling: the next step is planned while one is computed; None: vLLM's choice.
    """

    version: Literal["0.24.0"] = VERSION
    container: str = Field(default="nvcr.io/nvidia/tritonserver:26.07-vllm-python-py3", min_length=1)
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    pipeline_parallel_size: int = Field(default=1, ge=1, le=1024)
    dtype: Dtype = "auto"
    quantization: Quantization | None = None
    kv_cache_dtype: KvCacheDtype = "auto"
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1 << 20)
    cpu_offload_gb: float = Field(default=0.0, ge=0, le=4096)
    block_size: int | None = Field(default=None, ge=1, le=1024)
    enable_chunked_prefill: bool = True
    scheduling_policy: Literal["fcfs", "priority"] = "priority"
    enforce_eager: bool = False
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    load_format: LoadFormat = "auto"
    trust_remote_code: bool = False
    enable_lora: bool = False
    lora_modules: tuple[LoraModule, ...] = ()
    max_loras: int = Field(default=1, ge=1, le=1024)
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    max_cpu_loras: int | None = Field(default=None, ge=1, le=4096)
    enable_expert_parallel: bool = False
    disable_custom_all_reduce: bool = False
    async_scheduling: bool | None = None

    @property
    def world_size(self) -> int:
        """GPUs that it takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @field_validator("container")
    @classmethod
    def _carries_the_version(cls, value: str) -> str:
        return require_carried(value, _TAG, CONTAINERS, f"vLLM {VERSION}", VERSION)

    @model_validator(mode="after")
    def _consistent(self) -> Vllm:
        if self.enable_lora != bool(self.lora_modules):
            raise ValueError("enable_lora and lora_modules need each other")
        for what in ("id", "name"):
            found = [getattr(module, what) for module in self.lora_modules]
            if len(set(found)) != len(found):
                raise ValueError(f"lora_modules must have different {what}s, got {', '.join(map(str, found))}")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ValueError(f"max_cpu_loras must be at least max_loras {self.max_loras}, got {self.max_cpu_loras}")
        return self


def require_carried(image: str, tag: re.Pattern[str], carried: dict[str, str], what: str, version: str) -> str:
    """An image's name, if as far as it says it carries a version.

    Args:
        image: its name. A copy under another name says nothing: the server asks what is in it.
        tag: finds the tag in it.
        carried: tag -> version inside.
        what, version: that are needed.

    Raises:
        ValueError: no name of an image, or the tag carries another version.
    """
    if re.search(r"\s", image) or image.startswith("-"):
        raise ValueError(f"must be the name of an image, got {image!r}")
    found = tag.search(image)
    if found is None or carried.get(found[1]) == version:
        return image
    carries = f"carries {carried[found[1]]}" if found[1] in carried else "is not known to carry it"
    good = ", ".join(name for name, inside in carried.items() if inside == version)
    raise ValueError(f"must carry {what} (tags {good}), and {found[1]} {carries}")
