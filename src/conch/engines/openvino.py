"""Engine on OpenVINO GenAI's continuous batching: paged KV cache, prefix caching, chunked prefill, on any x86 CPU.

One thread owns the pipeline: it takes in what was submitted and cancelled, runs a step, and hands out the tokens. No
other thread touches the pipeline, and nothing that can block happens on this one.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from pathlib import Path
from typing import Any

import numpy as np

from conch.engines.base import Engine, GenerationRequest, TokenSink
from conch.errors import ConchError, InternalError, InvalidArgumentError, RepositoryError, UnavailableError
from conch.repository.artifacts import GGUF_FILE, IR_FILE
from conch.sampling import SamplingParams
from conch.spec import Engine as EngineSpec
from conch.spec import InferencePrecision, KvCacheType

_log = logging.getLogger(__name__)


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
        raise RepositoryError(f"OpenVINO cannot load {source}: {first_line(error)}") from None


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
    if not params.greedy:
        config.do_sample = True
        config.temperature = params.temperature
        config.top_p = params.top_p
        config.min_p = params.min_p
        if params.top_k:
            config.top_k = params.top_k
        # Without a seed of its own the pipeline would give every request the same one.
        config.rng_seed = secrets.randbits(63) if params.seed is None else params.seed
    return config


def first_line(error: BaseException) -> str:
    """The last line of an OpenVINO message, which is the one that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class OpenVinoEngine(Engine):
    """In-flight batching over a ContinuousBatchingPipeline.

    Args:
        engine_dir: compiled engine.
        spec: engine section of the spec.
        sink: where tokens go.

    Raises:
        RepositoryError: the engine cannot be loaded.
    """

    def __init__(self, engine_dir: Path, spec: EngineSpec, sink: TokenSink) -> None:
        import openvino_genai

        self._none = openvino_genai.GenerationFinishReason.NONE
        self._reasons = {
            openvino_genai.GenerationFinishReason.STOP: "stop",
            openvino_genai.GenerationFinishReason.LENGTH: "length",
        }
        self._ignored = openvino_genai.GenerationStatus.IGNORED
        self._pipeline = create_pipeline(engine_dir, spec)
        self._sink = sink
        self._inbox: queue.SimpleQueue[GenerationRequest | int | None] = queue.SimpleQueue()
        self._live: dict[int, Any] = {}  # request id -> GenerationHandle
        self._cancelled = False  # blocks of a cancelled request wait to be freed
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="openvino-step", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        if self._closed:
            raise UnavailableError("the engine is shutting down")
        self._inbox.put(request)

    def cancel(self, request_id: int) -> None:
        self._inbox.put(request_id)

    def close(self) -> None:
        self._closed = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._take_in():
            if not (self._live or self._cancelled):
                continue
            try:
                self._cancelled = False
                self._pipeline.step()  # frees what cancelled requests held, too
                self._hand_out()
            except Exception:
                _log.exception("a step of the engine failed; %d requests end", len(self._live))
                self._drop_all(InternalError("the engine failed while generating; see its log"))
            self._sink.step_done()
        self._drop_all(UnavailableError("the engine is shutting down"))
        self._sink.step_done()

    def _take_in(self) -> bool:
        """Take what was submitted and cancelled; wait for it when there is nothing else to do. False: close."""
        wait = not (self._live or self._cancelled)
        while True:
            try:
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            wait = False
            if item is None:
                return False
            if isinstance(item, int):
                handle = self._live.pop(item, None)
                if handle is not None:
                    handle.cancel()
                    self._cancelled = True
            else:
                self._add(item)

    def _add(self, request: GenerationRequest) -> None:
        import openvino

        ids = openvino.Tensor(np.asarray([request.input_ids], dtype=np.int64))
        try:
            config = generation_config(request.params)
            self._live[request.request_id] = self._pipeline.add_request(request.request_id, ids, config)
        except (RuntimeError, TypeError, ValueError) as error:
            _log.warning("request %d refused by OpenVINO: %s", request.request_id, error)
            self._sink.failed(request.request_id, InvalidArgumentError(f"refused by the engine: {first_line(error)}"))
            self._sink.step_done()

    def _hand_out(self) -> None:
        """Deliver what the last step produced."""
        ended = []
        for request_id, handle in self._live.items():
            if handle.can_read():
                output = next(iter(handle.read().values()))
                reason = output.finish_reason
                if reason == self._none:
                    self._sink.tokens(request_id, output.generated_ids, None)
                else:
                    ended.append(request_id)
                    self._sink.tokens(request_id, output.generated_ids, self._reasons[reason])
            elif handle.get_status() == self._ignored:
                ended.append(request_id)
                self._sink.failed(request_id, UnavailableError("the KV cache has no room for this request; try later"))
        for request_id in ended:
            del self._live[request_id]

    def _drop_all(self, error: ConchError) -> None:
        for request_id, handle in self._live.items():
            handle.cancel()
            self._sink.failed(request_id, error)
        self._live.clear()
