"""vllm/engine/arg_utils.py: the arguments that Conch sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AsyncEngineArgs:
    """Arguments of an engine; an unknown one is a TypeError, as with the real one."""

    model: str = ""
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enable_prefix_caching: bool | None = None
    generation_config: str = "auto"
    structured_outputs_config: dict[str, Any] = field(default_factory=dict)
    disable_log_stats: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    cpu_offload_gb: float = 0
    block_size: int | None = None
    enable_chunked_prefill: bool | None = None
    scheduling_policy: str = "fcfs"
    enforce_eager: bool = False
    seed: int = 0
    load_format: str = "auto"
    trust_remote_code: bool = False
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    max_cpu_loras: int | None = None
    enable_expert_parallel: bool = False
    disable_custom_all_reduce: bool = False
    async_scheduling: bool | None = None
