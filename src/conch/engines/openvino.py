"""Engine on OpenVINO GenAI's continuous batching: paged KV cache, prefix caching, chunked prefill, on any x86 CPU.

The pipeline's ``step`` keeps Python's global lock for as long as it computes (openvino-genai 2026.4), so it runs in a
process of its own (conch.engines.process): otherwise no other thread could send a token while the next is computed.
"""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from conch.engines.base import CANCEL_STEPS, Batcher, EngineState, Event, Failure, GenerationRequest, Tokens
from conch.engines.cache_room import require_cache, require_room
from conch.engines.gguf_file import writable
from conch.engines.guide_compiler import guide_of, structured_output
from conch.engines.guide_model import GuideVocabulary
from conch.engines.guide_preparer import GuidePreparer
from conch.engines.prefix_mirror import BLOCK_TOKENS, PrefixMirror
from conch.errors import ConchError, InvalidArgumentError, RepositoryError, UnavailableError, UnsupportedError
from conch.repository.artifacts import GGUF_FILE, IR_FILE
from conch.sampling import Guide, SamplingParams
from conch.spec import Engine as EngineSpec
from conch.spec import InferencePrecision, KvCacheType

_GUIDE_WAIT_S = 0.02  # how long a step without anything to compute waits for guides


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


def create_pipeline(engine_dir: Path, spec: EngineSpec, tokenizer: Any = None) -> Any:
    """An openvino_genai.ContinuousBatchingPipeline for a compiled engine.

    Args:
        engine_dir: compiled engine.
        spec: engine section of the spec.
        tokenizer: an openvino_genai.Tokenizer instead of the engine's own; only guides use it.

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
    properties = device_properties(spec)
    with writable(gguf) if gguf.exists() else nullcontext(engine_dir) as source:
        try:
            if tokenizer is not None:
                return openvino_genai.ContinuousBatchingPipeline(str(source), tokenizer, scheduler, "CPU", **properties)
            return openvino_genai.ContinuousBatchingPipeline(str(source), scheduler, "CPU", properties, {})
        except RuntimeError as error:
            raise RepositoryError(f"OpenVINO cannot load {source}: {last_line(error)}") from None


def generation_config(params: SamplingParams, guide: Guide | None = None, end_id: int = -1) -> Any:
    """An openvino_genai.GenerationConfig for a request.

    Args:
        params: controls.
        guide: what the answer must be; of guide_of(params).
        end_id: an id that ends a guided answer where the request names none.
    """
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = params.max_tokens
    config.min_new_tokens = params.min_tokens
    if params.end_ids:
        config.eos_token_id = params.end_ids[0]
        config.stop_token_ids = set(params.end_ids)
    elif guide is None:
        config.ignore_eos = True
    else:  # a guide needs an end, and lets anything follow it: so it must not come before max_tokens
        config.eos_token_id = end_id
        config.stop_token_ids = {end_id}
        config.min_new_tokens = params.max_tokens
    if guide is not None:
        config.structured_output_config = structured_output(guide)
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
        RepositoryError: the engine cannot be loaded, or its KV cache is smaller than max_seq_len.
    """

    def __init__(self, engine_dir: Path, spec: EngineSpec) -> None:
        import openvino_genai

        self._spec = spec
        self._none = openvino_genai.GenerationFinishReason.NONE
        self._reasons = {
            openvino_genai.GenerationFinishReason.STOP: "stop",
            openvino_genai.GenerationFinishReason.LENGTH: "length",
        }
        self._ignored = openvino_genai.GenerationStatus.IGNORED
        self._vocabulary = GuideVocabulary.of_release(engine_dir)
        tokenizer = None if self._vocabulary is None else self._vocabulary.open_tokenizer()
        self._pipeline = create_pipeline(engine_dir, spec, tokenizer)
        self._guides = None if self._vocabulary is None else GuidePreparer(self._vocabulary, tokenizer)
        self._ended: list[int] = []  # of this step or before it
        if self._vocabulary is not None:
            self._warm_up(self._vocabulary.end_id)
        self._live: dict[int, tuple[Any, SamplingParams]] = {}  # request id -> GenerationHandle, controls
        # Steps until get_metrics tells the truth: usage is noted at the beginning of a step, and blocks are freed at
        # its end. A request that was cancelled is computed once more before.
        self._unsettled_steps = 0
        self._total_blocks = self._count_blocks()
        self._cache_tokens = self._total_blocks * BLOCK_TOKENS
        require_cache(spec, self._cache_tokens)
        self._mirror = PrefixMirror(self._total_blocks if spec.enable_kv_cache_reuse else 0)

    def _count_blocks(self) -> int:
        """Blocks of the KV cache, from the share that one takes: one token is computed."""
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = 1, True
        handle = self._pipeline.add_request(0, openvino.Tensor(np.zeros((1, 1), dtype=np.int64)), config)
        self._pipeline.step()
        usage: float = self._pipeline.get_metrics().cache_usage  # in percent
        handle.read()
        self._pipeline.step()  # notes that it is free again
        return round(100 / usage) if usage else 0

    def _warm_up(self, token_id: int) -> None:
        """Compute one token: the first one makes what guides share, which two threads must not do at once."""
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.ignore_eos = True
        self._pipeline.generate([openvino.Tensor(np.array([[token_id]], dtype=np.int64))], [config])

    @property
    def busy(self) -> bool:
        return self._computes or (self._guides is not None and self._guides.busy)

    @property
    def _computes(self) -> bool:
        return bool(self._live) or self._unsettled_steps > 0

    def add(self, request: GenerationRequest) -> None:
        require_room(request, self._spec, self._cache_tokens)
        guide = guide_of(request.params)
        if guide is None:
            self._add(request, None)
        elif self._guides is None:
            raise UnsupportedError("the engine has guides only in the folder of a release")
        else:
            self._guides.add(request, guide)

    def _add(self, request: GenerationRequest, guide: Guide | None) -> None:
        import openvino

        ids = openvino.Tensor(np.asarray([request.input_ids], dtype=np.int64))
        try:
            config = generation_config(request.params, guide, self._vocabulary.end_id if self._vocabulary else -1)
            handle = self._pipeline.add_request(request.request_id, ids, config)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgumentError(f"refused by the engine: {last_line(error)}") from None
        self._live[request.request_id] = handle, request.params
        self._mirror.settle(self._used_blocks())
        one_answer = max(request.params.beam_width, request.params.num_sequences) == 1
        self._mirror.add(request.request_id, request.input_ids, one_answer)

    def cancel(self, request_id: int) -> None:
        live = self._live.pop(request_id, None)
        if live is not None:
            live[0].cancel()
            self._mirror.settle(self._used_blocks())
            self._mirror.end(request_id)
            self._unsettled_steps = CANCEL_STEPS
            self._ended.append(request_id)
        elif self._guides is not None:
            self._guides.drop(request_id)

    def step(self) -> list[Event]:
        events: list[Event] = self._take_prepared()
        if self._computes:
            events += self._step()
        return events

    def _take_prepared(self) -> list[Event]:
        """Add the requests whose guides are compiled by now; if there is nothing else to do, wait a little for them."""
        if self._guides is None:
            return []
        failures: list[Event] = []
        for request, guide, error in self._guides.take(0 if self._computes else _GUIDE_WAIT_S):
            try:
                if error is not None:
                    raise error
                self._add(request, guide)
            except ConchError as refused:
                failures.append(Failure(request.request_id, refused))
                self._guides.begun(request.request_id)
        return failures

    def _step(self) -> list[Event]:
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
        ended = [e for e in events if isinstance(e, Failure) or e.finish_reason is not None]
        if ended:
            self._mirror.settle(self._used_blocks())  # as it was in this step: they still held their blocks
        for event in events:
            if isinstance(event, Tokens):
                self._mirror.tokens(event.request_id, event.ids)
        if ended:
            self._unsettled_steps = max(1, self._unsettled_steps)
            for event in ended:
                self._live.pop(event.request_id, None)
                self._mirror.end(event.request_id)
        if self._guides is not None:
            for request_id in [*self._ended, *(event.request_id for event in events)]:
                self._guides.begun(request_id)
            self._ended.clear()
        return events

    def state(self) -> EngineState:
        usage = self._used_blocks() / self._total_blocks if self._total_blocks else 0.0
        return EngineState(usage, self._mirror.query_tokens, self._mirror.hit_tokens)

    def _used_blocks(self) -> int:
        """Blocks that running requests hold; what prefix caching keeps beside them counts as free."""
        usage: float = self._pipeline.get_metrics().cache_usage
        return round(usage / 100 * self._total_blocks)
