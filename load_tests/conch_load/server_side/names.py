"""Which series mean what, for the servers whose metrics are known: Conch's engine, vLLM, TensorRT-LLM's backend.

Conch's names come from its own table, which has vLLM's beside them. A figure that a server does not have is missing,
not 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from conch import metric_table as table


@dataclass(frozen=True)
class Series:
    """One figure of one server: the sum of the series of a name that have these labels."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0  # from the server's unit to ours


@dataclass(frozen=True)
class Engine:
    """How an engine names its figures.

    Attributes:
        name: of the engine.
        gauges: figure -> series. Figures: ``waiting``, ``running`` (rows), ``kv_cache_usage`` (share of all blocks).
        counters: figure -> series. ``prompt_tokens``, ``output_tokens``, ``prefix_queries``, ``prefix_hits``.
        histograms: figure -> name without _bucket, _sum and _count, with a scale to ms where it is a time.
    """

    name: str
    gauges: Mapping[str, Series]
    counters: Mapping[str, Series]
    histograms: Mapping[str, Series]


_MS = 1000.0
_GAUGES = {"waiting": table.WAITING, "running": table.RUNNING, "kv_cache_usage": table.KV_USAGE}
_COUNTERS = {
    "prompt_tokens": table.PROMPT_TOKENS, "output_tokens": table.OUTPUT_TOKENS,
    "prefix_queries": table.PREFIX_QUERIES, "prefix_hits": table.PREFIX_HITS,
}  # fmt: skip
_TIMES = {
    "queue_ms": table.QUEUE_TIME, "prefill_ms": table.PREFILL_TIME, "ttft_ms": table.TTFT,
    "decode_ms": table.DECODE_TIME, "inter_token_ms": table.INTER_TOKEN, "e2e_ms": table.E2E_TIME,
}  # fmt: skip
_SIZES = {
    "batch_size": table.BATCH_SIZE, "prompt_tokens_of_a_row": table.REQUEST_PROMPT,
    "output_tokens_of_a_row": table.REQUEST_OUTPUT,
}  # fmt: skip


def _from_table(name: str, vllm: bool) -> Engine:
    def named(metrics: Mapping[str, table.MetricSpec], scale: float = 1.0) -> dict[str, Series]:
        names = {figure: one.vllm if vllm else one.name for figure, one in metrics.items()}
        return {figure: Series(one, scale=scale) for figure, one in names.items() if one}

    return Engine(name, named(_GAUGES), named(_COUNTERS), {**named(_TIMES, _MS), **named(_SIZES)})


def _trtllm(family: str, label: str, value: str) -> Series:
    return Series(f"nv_trt_llm_{family}_metrics", {label: value})


# Its "scheduled" and "fraction" are those that the Gateway API Inference Extension reads as running and KV use.
_TENSORRT_LLM = Engine(
    "tensorrt_llm",
    {
        "waiting": _trtllm("request", "request_type", "waiting"),
        "running": _trtllm("request", "request_type", "scheduled"),
        "kv_cache_usage": _trtllm("kv_cache_block", "kv_cache_block_type", "fraction"),
    },
    {},
    {},
)
ENGINES = (_from_table("conch", False), _from_table("vllm", True), _TENSORRT_LLM)

# Triton's own, of /metrics; what it has for each model is taken from its statistics, which are in ns.
TRITON_GAUGES = {
    "cpu_utilization": Series("nv_cpu_utilization"),
    "gpu_utilization": Series("nv_gpu_utilization"),
    "gpu_memory_used_bytes": Series("nv_gpu_memory_used_bytes"),
    "gpu_power_watts": Series("nv_gpu_power_usage"),
}
GPU_MEAN = frozenset({"gpu_utilization"})  # of several GPUs: the mean, not the sum
# One series for each model, from /v2/models/stats; _us of /metrics where there are no statistics.
STATISTICS = "triton_statistics"
# Named like a histogram's number, but a gauge.
GAUGES_BY_ANOTHER_NAME = frozenset({"nv_inference_pending_request_count"})
METRICS = "metrics"  # the other half of a sample
MODEL_TIMES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
METRICS_OF_A_MODEL = {
    "nv_inference_request_success": ("success", "count", 1.0),
    "nv_inference_request_failure": ("fail", "count", 1.0),
    "nv_inference_request_duration_us": ("success", "ns", 1000.0),
    "nv_inference_queue_duration_us": ("queue", "ns", 1000.0),
    "nv_inference_compute_input_duration_us": ("compute_input", "ns", 1000.0),
    "nv_inference_compute_infer_duration_us": ("compute_infer", "ns", 1000.0),
    "nv_inference_compute_output_duration_us": ("compute_output", "ns", 1000.0),
    "nv_inference_exec_count": ("execution", "count", 1.0),
    "nv_inference_count": ("inference", "count", 1.0),
}


def half_of(key: str) -> str:
    """Which half of a sample a series is of: METRICS or STATISTICS."""
    return STATISTICS if key.startswith(STATISTICS) else METRICS
