"""Section ``engine.llmapi`` of a spec: what TensorRT-LLM's class LLM is told, with its PyTorch backend.

Keys are those of TensorRT-LLM's TorchLlmArgs and its parts (tensorrt_llm/llmapi/llm_args.py). What is not here is
TensorRT-LLM's to decide, or Conch's: paths, and the limits that every runtime has under one name.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from conch.spec_base import Section
from conch.spec_trtllm import CONTAINERS, IMAGE, VERSION
from conch.spec_vllm import require_carried

_TAG = re.compile(r":(\d\d\.\d\d)-trtllm-python-py3")


class KvCache(Section):
    """``kv_cache_config``. Blocks are used again if engine.enable_kv_cache_reuse says so.

    Attributes:
        free_gpu_memory_fraction: share of the memory that is free after loading.
        max_tokens: most tokens in it; None: what the share gives.
        host_cache_size: bytes of the machine's memory for blocks that may be used again; None: none.
        dtype: auto: the model's.
        tokens_per_block: tokens of a block.
        enable_partial_reuse: a block may be used again in part.
    """

    free_gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    host_cache_size: int | None = Field(default=None, ge=0)
    dtype: Literal["auto", "fp8"] = "auto"
    tokens_per_block: Literal[8, 16, 32, 64, 128] = 32
    enable_partial_reuse: bool = True


class CudaGraphs(Section):
    """``cuda_graph_config``.

    Attributes:
        max_batch_size: largest batch that gets a graph; 0: TensorRT-LLM's choice.
        enable_padding: smaller batches are filled up to one that has a graph.
    """

    max_batch_size: int = Field(default=0, ge=0, le=4096)
    enable_padding: bool = False


class LlmApi(Section):
    """TensorRT-LLM's LLM API: serves a Hugging Face checkpoint as it is, with PyTorch.

    Attributes:
        version: of TensorRT-LLM; another one is refused.
        container: Triton's container that carries that version. Conch does not start it (docs/runtimes.md).
        backend: pytorch. Compiled engines are for the runtime tensorrtllm, which is Triton's C++ backend.
        tensor_parallel_size, pipeline_parallel_size: GPUs that share every layer, and groups of layers on different
            GPUs.
        dtype: of weights and activations that are not quantized.
        kv_cache_config, cuda_graph_config: see there; no cuda_graph_config (null): no CUDA graphs.
        capacity_scheduler_policy: of ``scheduler_config``: whether a request may be started that another's growth can
            push out again.
        enable_chunked_prefill: a long prompt is computed in several steps.
        guided_decoding_backend: None: guides are refused.
        attn_backend: see TensorRT-LLM.
        sampler_type: TorchSampler of 1.2 has no penalties, so requests with one are refused then.
        disable_overlap_scheduler: the next step is planned only when one is done.
        load_format: auto, or dummy: weights at random.
        trust_remote_code: lets TensorRT-LLM run Python code of the checkpoint. The build brings no code.
    """

    version: Literal["1.2.1"] = VERSION
    container: str = Field(default=f"{IMAGE}:26.07-trtllm-python-py3", min_length=1)
    backend: Literal["pytorch"] = "pytorch"
    tensor_parallel_size: int = Field(default=1, ge=1, le=1024)
    pipeline_parallel_size: int = Field(default=1, ge=1, le=1024)
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    kv_cache_config: KvCache = KvCache()
    cuda_graph_config: CudaGraphs | None = CudaGraphs()
    capacity_scheduler_policy: Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION"] = "GUARANTEED_NO_EVICT"
    enable_chunked_prefill: bool = True
    guided_decoding_backend: Literal["xgrammar"] | None = "xgrammar"
    attn_backend: Literal["TRTLLM", "FLASHINFER", "VANILLA"] = "TRTLLM"
    sampler_type: Literal["TRTLLMSampler", "TorchSampler"] = "TRTLLMSampler"
    disable_overlap_scheduler: bool = False
    load_format: Literal["auto", "dummy"] = "auto"
    trust_remote_code: bool = False

    @property
    def world_size(self) -> int:
        """GPUs that it takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @field_validator("container")
    @classmethod
    def _carries_the_version(cls, value: str) -> str:
        return require_carried(value, _TAG, CONTAINERS, f"TensorRT-LLM {VERSION}", VERSION)
