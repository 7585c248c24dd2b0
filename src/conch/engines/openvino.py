"""Engine on OpenVINO GenAI's continuous batching: paged KV cache, prefix caching, chunked prefill, on any x86 CPU.

The pipeline's ``step`` keeps Python's global lock for as long as it computes (openvino-genai 2026.4), so it runs in a
process of its own (conch.engines.process): otherwise no other thread could send a token while the next is computed.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np

from conch.engines.base import Batcher, EngineState, Event, Failure, GenerationRequest, Tokens
from conch.errors import InvalidArgumentError, RepositoryError, UnavailableError
from conch.repository.artifacts import GGUF_FILE, IR_FILE
from conch.sampling import SamplingParams
from conch.spec import Engine as EngineSpec
from conch.spec import InferencePrecision, KvCacheType


def device_properties(spec: EngineSpec) -> dict[str, Any]:
    """OpenVINO's CPU properties for a spec."""
    properties: dict[str, Any] = {}
    if spec.num_threads:
        properties["INFERENCE_NUM_THREADS"] = spec.num_threads
    if spec.deterministic:
        # Rounding in u8 caches, bf16 sums and dynamically quantized activations depends on the shape of the batch.
        properties |= {
            "KV_CACHE_PRECISION": "f32", "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }  # fmt: skip
    if spec.kv_cache_type is not KvCacheType.AUTO:
        properties["KV_CACHE_PRECISION"] = spec.kv_cache_type.value
    if spec.inference_precision is not InferencePrecision.AUTO:
        properties["INFERENCE_PRECISION_HINT"] = spec.inference_precision.value
    return properties


def create_pipeline(engine_dir: Path, spec: EngineSpec) -> Any:
    """An openvino_genai.ContinuousBatchingPipeline for a compiled engine.

    Raises:
        RepositoryError: the folder holds no engine, or OpenVINO cannot read it.
    """
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = spec.kv_cache_gib
    scheduler.max_num_seqs = spec.max_batch_size
    scheduler.max_num_batched_tokens = spec.max_num_tokens
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = spec.enable_kv_cache_reuse
    gguf = engine_dir / GGUF_FILE
    if not gguf.exists() and not (engine_dir / IR_FILE).exists():
        raise RepositoryError(f"{engine_dir} must hold {GGUF_FILE} or {IR_FILE}, and holds neither")
    source = gguf if gguf.exists() else engine_dir
    try:
        return openvino_genai.ContinuousBatchingPipeline(str(source), scheduler, "CPU", device_properties(spec), {})
    except RuntimeError as error:
        raise RepositoryError(f"OpenVINO cannot load {source}: {last_line(error)}") from None


def generation_config(params: SamplingParams) -> Any:
    """An openvino_genai.GenerationConfig for a request."""
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = params.max_tokens
    config.min_new_tokens = params.min_tokens
    if params.end_ids:
        config.eos_token_id = params.end_ids[0]
        config.stop_token_ids = set(params.end_ids)
    else:
        config.ignore_eos = True
    config.repetition_penalty = params.repetition_penalty
    config.presence_penalty = params.presence_penalty
    config.frequency_penalty = params.frequency_penalty
    config.logprobs = int(params.return_log_probs)
    config.num_return_sequences = params.num_sequences
    if params.beam_width > 1:
        config.num_beams = params.beam_width
        config.length_penalty = params.length_penalty
        criteria = openvino_genai.StopCriteria
        config.stop_criteria = criteria.EARLY if params.early_stopping else criteria.HEURISTIC
        if params.no_repeat_ngram_size:
            config.no_repeat_ngram_size = params.no_repeat_ngram_size
    elif not params.greedy:
        config.do_sample = True
        config.temperature = params.temperature
        config.top_p = params.top_p
        config.min_p = params.min_p
        if params.top_k:
            config.top_k = params.top_k
        # Without a seed of its own the pipeline would give every request the same one.
        config.rng_seed = secrets.randbits(63) if params.seed is None else params.seed
    return config


def last_line(error: BaseException) -> str:
    """The last line of an OpenVINO message, which is the one that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class OpenVinoBatcher(Batcher):
    """In-flight batching over a ContinuousBatchingPipeline.

    Args:
        engine_dir: compiled engine.
        spec: engine section of the spec.

    Raises:
        RepositoryError: the engine cannot be loaded.
    """

    def __init__(self, engine_dir: Path, spec: EngineSpec) -> None:
        import openvino_genai

        self._none = openvino_genai.GenerationFinishReason.NONE
        self._reasons = {
            openvino_genai.GenerationFinishReason.STOP: "stop",
            openvino_genai.GenerationFinishReason.LENGTH: "length",
        }
        self._ignored = openvino_genai.GenerationStatus.IGNORED
        self._pipeline = create_pipeline(engine_dir, spec)
        self._live: dict[int, tuple[Any, SamplingParams]] = {}  # request id -> GenerationHandle, controls
        # Steps until get_metrics tells the truth: usage is noted at the beginning of a step, and blocks are freed at
        # its end. A request that was cancelled is computed once more before.
        self._unsettled_steps = 0

    @property
    def busy(self) -> bool:
        return bool(self._live) or self._unsettled_steps > 0

    def add(self, request: GenerationRequest) -> None:
        import openvino

        ids = openvino.Tensor(np.asarray([request.input_ids], dtype=np.int64))
        try:
            config = generation_config(request.params)
            handle = self._pipeline.add_request(request.request_id, ids, config)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgumentError(f"refused by the engine: {last_line(error)}") from None
        self._live[request.request_id] = handle, request.params

    def cancel(self, request_id: int) -> None:
        live = self._live.pop(request_id, None)
        if live is not None:
            live[0].cancel()
            self._unsettled_steps = 2

    def step(self) -> list[Event]:
        self._pipeline.step()
        self._unsettled_steps = max(0, self._unsettled_steps - 1)
        events: list[Event] = []
        for request_id, (handle, params) in self._live.items():
            if handle.can_read():
                outputs = list(handle.read().values())
                if params.beam_width > 1:
                    outputs.sort(key=lambda output: -output.score)
                for sequence, output in enumerate(outputs[: params.num_sequences]):
                    reason = output.finish_reason
                    finish = None if reason == self._none else self._reasons[reason]
                    log_probs = output.generated_log_probs if params.return_log_probs else []
                    events.append(Tokens(request_id, output.generated_ids, finish, log_probs, sequence))
            elif handle.get_status() == self._ignored:
                events.append(Failure(request_id, UnavailableError("the KV cache has no room for this request")))
        for event in events:
            if isinstance(event, Failure) or event.finish_reason is not None:
                self._live.pop(event.request_id, None)
                self._unsettled_steps = max(1, self._unsettled_steps)
        return events

    def state(self) -> EngineState:
        return EngineState(kv_cache_usage=self._pipeline.get_metrics().cache_usage / 100)
