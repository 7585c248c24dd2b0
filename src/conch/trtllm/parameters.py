"""Parameters of Triton's backend ``tensorrtllm``: each is set on purpose, or left out on purpose.

The backend replaces a parameter that is missing or cannot be read by a default of its own, and logs no more than a
warning. So every one that it knows stands here. An empty value is never written but where the backend wants one: it
reads three parameters of guided decoding without a default, and would not load without them.
"""

from __future__ import annotations

from collections.abc import Mapping

from conch.contract import ENGINE, EXCLUDE_INPUT_IN_OUTPUT
from conch.repository.artifacts import ENGINE_DIR
from conch.spec import Engine
from conch.spec_trtllm import TensorRtLlm

WORKER_PATH = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"

# Parameters that the backend knows and that are never written: why.
NEVER = {
    "encoder_model_path": "a decoder has no encoder",
    "cross_kv_cache_fraction": "refused for a model without an encoder",
    "medusa_choices": "needs weights that the build does not convert",
    "eagle_choices": "needs weights that the build does not convert",
    "enable_trt_overlap": "deprecated, has no effect",
    "worker_path": "replaced by executor_worker_path",
}

# Parameters that are written only if the spec sets them: what their absence means to the backend.
IF_SET = {
    "max_tokens_in_paged_kv_cache": "kv_cache_free_gpu_mem_fraction alone limits the KV cache",
    "max_attention_window_size": "every layer sees the whole sequence",
    "sink_token_length": "none",
    "gpu_device_ids": "the GPUs in their order",
    "participant_ids": "every rank of the launch",
    "lora_prefetch_dir": "no adapter is loaded before it is asked for; an empty value would be read as a folder",
    "lookahead_window_size": "no lookahead decoding",
    "lookahead_ngram_size": "no lookahead decoding",
    "lookahead_verification_set_size": "no lookahead decoding",
}


def engine_path(settings: TensorRtLlm, version: int) -> str:
    """Where the serving container finds the engine of a version; the backend takes no relative path."""
    return f"{settings.served_repository.rstrip('/')}/{ENGINE.name}/{version}/{ENGINE_DIR}"


def backend_parameters(engine: Engine, settings: TensorRtLlm, version: int) -> dict[str, str]:
    """Every parameter of config.pbtxt, by name.

    Args:
        engine: section ``engine`` of the spec.
        settings: its section ``tensorrt_llm``.
        version: of the release.
    """
    backend = settings.backend
    values: Mapping[str, object] = {
        **backend.model_dump(mode="json", exclude={"max_queue_delay_microseconds"}),
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_path": engine_path(settings, version),
        "executor_worker_path": WORKER_PATH,
        "max_beam_width": settings.build.max_beam_width,
        "enable_kv_cache_reuse": engine.enable_kv_cache_reuse,
        "decoding_mode": decoding_mode(settings),
        # What a client of this model gets that does not say; Conch's own requests say it.
        EXCLUDE_INPUT_IN_OUTPUT.engine_name: True,
        "tokenizer_dir": "",  # read without a default, and not used by the backend in C++
        "guided_decoding_backend": backend.guided_decoding_backend or "",
        "xgrammar_tokenizer_info_path": backend.xgrammar_tokenizer_info_path or "",
    }
    return {name: _text(values[name]) for name in sorted(values) if values[name] not in (None, [])}


def decoding_mode(settings: TensorRtLlm) -> str:
    """What the engine decodes with, where the spec leaves it to its other keys.

    An engine for beam search does nothing else: a request that asks to sample is refused by it.
    """
    if settings.backend.decoding_mode is not None:
        return settings.backend.decoding_mode
    if settings.build.speculative_decoding_mode == "lookahead_decoding":
        return "lookahead"
    return "beam_search" if settings.build.max_beam_width > 1 else "top_k_top_p"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)
