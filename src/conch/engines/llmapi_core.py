"""Engine on TensorRT-LLM 1.2.1: its class LLM with the PyTorch backend, which batches in processes of its own.

The interface is that of tensorrt_llm/llmapi/llm.py, llm_args.py, sampling_params.py and executor/result.py. It was
read at commits of the time of 1.2, and never run.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from conch import contract
from conch.engines.base import EngineState, Event, Failure, GenerationRequest, Report, StreamingCore, Tokens
from conch.engines.guide_compiler import guide_of, with_exact_integers
from conch.engines.interpreter import require_package
from conch.engines.task_core import TaskCore, first_line, refused
from conch.errors import RepositoryError, UnavailableError, UnsupportedError
from conch.sampling import Guide, SamplingParams
from conch.spec import Engine as EngineSpec
from conch.spec_llmapi import LlmApi
from conch.spec_trtllm import VERSION

_log = logging.getLogger(__name__)
_STATS_WAIT_S = 1.0
_STATS_PAUSE_S = 0.1
_SEED_BITS = 63
_NO_END = -1
# What TorchSampler of 1.2 has no code for; TRTLLMSampler has.
_PENALTIES = (contract.REPETITION_PENALTY, contract.PRESENCE_PENALTY, contract.FREQUENCY_PENALTY)


def llm_args(engine_dir: Path, spec: EngineSpec) -> dict[str, Any]:
    """Keywords of TensorRT-LLM's LLM for a spec; those of its parts as plain dicts under their own keys.

    Args:
        engine_dir: checkpoint.
        spec: engine section of the spec, of the runtime tensorrt_llm.
    """
    settings = spec.llmapi
    assert settings is not None
    own = settings.model_dump(exclude={"version", "container", "capacity_scheduler_policy"})
    return {
        **own,
        "model": str(engine_dir),
        "max_batch_size": spec.max_batch_size,
        "max_num_tokens": spec.max_num_tokens,
        "max_seq_len": spec.max_seq_len,
        "max_input_len": spec.max_input_len,
        "max_beam_width": 1,
        "kv_cache_config": {**own["kv_cache_config"], "enable_block_reuse": spec.enable_kv_cache_reuse},
        "scheduler_config": {"capacity_scheduler_policy": settings.capacity_scheduler_policy},
        "enable_iter_perf_stats": True,  # signs of life, and how full the KV cache is
        "stream_interval": 1,
    }


def guided_decoding(guide: Guide) -> dict[str, Any]:
    """Keywords of TensorRT-LLM's GuidedDecodingParams for a guide."""
    if guide.type == "json":
        return {"json": "{}"}  # json_object would let only objects through
    if guide.type == "json_schema":
        return {"json": with_exact_integers(guide.text)}
    return {{"regex": "regex", "ebnf_grammar": "grammar"}[guide.type]: guide.text}


def sampling_params(params: SamplingParams, end_id: int | None = None) -> dict[str, Any]:
    """Keywords of TensorRT-LLM's SamplingParams for a request, without guided_decoding.

    Args:
        params: controls.
        end_id: an id that ends a guided answer, besides those that the request names.
    """
    end_ids = list(params.end_ids)
    if end_id is not None and end_id not in end_ids:
        end_ids.append(end_id)
    drawn = {"top_k": 1} if params.greedy else {
        "temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p, "min_p": params.min_p,
        # All requests without one would draw the same.
        "seed": secrets.randbits(_SEED_BITS) if params.seed is None else params.seed % (1 << _SEED_BITS),
    }  # fmt: skip
    return {
        **drawn,
        "n": params.num_sequences,
        "max_tokens": params.max_tokens,
        "min_tokens": params.min_tokens or None,
        "end_id": end_ids[0] if end_ids else _NO_END,  # without one the tokenizer's would count
        "pad_id": params.pad_id,
        "stop_token_ids": end_ids[1:] or None,
        "include_stop_str_in_output": True,  # the ids in stop_token_ids are kept, as the end id is
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logprobs": 1 if params.return_log_probs else None,  # 0 would give none
        "detokenize": False,
        "add_special_tokens": False,
    }


def check_request(params: SamplingParams, settings: LlmApi) -> None:
    """Refuse what this spec's engine cannot honour; what no spec can is refused before.

    Raises:
        UnsupportedError: names the control.
    """
    if settings.guided_decoding_backend is None and (params.guide is not None or params.bad_words):
        control = contract.BAD_WORDS if params.bad_words else contract.GUIDED_DECODING_GUIDE_TYPE
        raise UnsupportedError(f"{control.name} needs llmapi.guided_decoding_backend in the spec")
    if settings.sampler_type != "TorchSampler":
        return
    values = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    for control, value, off in zip(_PENALTIES, values, (1.0, 0.0, 0.0), strict=True):
        if value != off:
            raise UnsupportedError(f"{control.name} needs llmapi.sampler_type TRTLLMSampler in the spec, got {value:g}")


class LlmApiCore(TaskCore):
    """Requests under way at an LLM.

    Args:
        llm: tensorrt_llm.LLM.
        spec: engine section of the spec.
        report: told of everything.
    """

    def __init__(self, llm: Any, spec: EngineSpec, report: Report) -> None:
        super().__init__(report)
        assert spec.llmapi is not None
        self._llm, self._settings = llm, spec.llmapi
        self._usage = 0.0
        self._follow = asyncio.get_running_loop().create_task(self._follow_stats())

    def add(self, request: GenerationRequest) -> None:
        from tensorrt_llm.llmapi import GuidedDecodingParams
        from tensorrt_llm.llmapi import SamplingParams as LlmSamplingParams

        params = request.params
        check_request(params, self._settings)
        guide = guide_of(params)
        end_id = None if guide is None else self._llm.tokenizer.eos_token_id
        try:
            controls = LlmSamplingParams(
                **sampling_params(params, end_id),
                guided_decoding=None if guide is None else GuidedDecodingParams(**guided_decoding(guide)),
            )
        except (ValueError, TypeError) as error:
            raise refused(error) from None
        self.ask(request.request_id, self._answers(request, controls))

    def state(self) -> EngineState:
        return EngineState(self._usage if self.busy else 0.0)

    def death(self, error: Exception) -> bool:
        """A RequestError is of one request, a ValueError of what was asked; whatever else comes is of the executor."""
        from tensorrt_llm.llmapi import RequestError

        return not isinstance(error, (RequestError, ValueError))

    async def close(self) -> None:
        self._follow.cancel()
        await self.give_all_up()
        self._llm.shutdown()

    async def _answers(self, request: GenerationRequest, controls: Any) -> AsyncGenerator[Sequence[Event], None]:
        """Ask, and give the request up if it does not come to its end."""
        one_answer = request.params.num_sequences == 1
        prompt = {"prompt_token_ids": list(request.input_ids)}
        result = self._llm.generate_async(prompt, sampling_params=controls, streaming=one_answer)
        try:
            if one_answer:
                async for output in result:
                    yield _pieces(request, output)
            else:
                yield _wholes(request, await result.aresult())
        finally:
            if not result.finished:
                result.abort()

    async def _follow_stats(self) -> None:
        """Signs of life and the KV cache's usage, from the statistics of each iteration."""
        while True:
            try:
                async for stats in self._llm.get_stats_async(_STATS_WAIT_S):
                    blocks = stats.get("kvCacheStats") or {}
                    if blocks.get("maxNumBlocks"):
                        self._usage = blocks.get("usedNumBlocks", 0) / blocks["maxNumBlocks"]
                    self._report.alive()
            except Exception:
                _log.exception("TensorRT-LLM gives no statistics; tokens are the only signs of life")
                return
            await asyncio.sleep(_STATS_PAUSE_S)


def _pieces(request: GenerationRequest, output: Any) -> list[Event]:
    """What is new in a tensorrt_llm RequestOutput of one answer."""
    answer = output.outputs[0]
    ended = _end_of(request, answer)
    if isinstance(ended, Failure):
        return [ended]
    ids = list(answer.token_ids_diff)
    if not ids and ended is None:
        return []
    return [Tokens(request.request_id, ids, ended, _log_probs(request, ids, answer.logprobs_diff))]


def _wholes(request: GenerationRequest, output: Any) -> list[Event]:
    """The answers of a tensorrt_llm RequestOutput that has ended."""
    events: list[Event] = []
    for answer in output.outputs:
        ended = _end_of(request, answer)
        if isinstance(ended, Failure):
            return [ended]
        ids = list(answer.token_ids)
        log_probs = _log_probs(request, ids, answer.logprobs)
        events.append(Tokens(request.request_id, ids, ended or "stop", log_probs, answer.index))
    return events


def _end_of(request: GenerationRequest, answer: Any) -> str | Failure | None:
    """Why an answer ended; a failure where nobody of ours asked for that end."""
    reason: str | None = answer.finish_reason
    if reason in (None, "stop", "length"):
        return reason
    return Failure(request.request_id, UnavailableError(f"the engine gave the request up ({reason})"))


def _log_probs(request: GenerationRequest, ids: Sequence[int], found: Sequence[Any]) -> list[float]:
    """Of the chosen tokens; TensorRT-LLM gives them as numbers, or by id among the likeliest."""
    if not request.params.return_log_probs:
        return []
    return [float(position[i].logprob if isinstance(position, dict) else position)
            for i, position in zip(ids, found, strict=False)]  # fmt: skip


async def open_llmapi(engine_dir: Path, spec: EngineSpec, report: Report) -> StreamingCore:
    """Load a checkpoint with TensorRT-LLM.

    Args:
        engine_dir: checkpoint.
        spec: engine section of the spec, of the runtime tensorrt_llm.
        report: told of everything.

    Raises:
        RepositoryError: TensorRT-LLM is missing or another version, or cannot load the checkpoint on this machine.
    """
    assert spec.llmapi is not None
    require_package("tensorrt_llm", VERSION)
    from tensorrt_llm import LLM
    from tensorrt_llm.llmapi import CapacitySchedulerPolicy, CudaGraphConfig, KvCacheConfig, SchedulerConfig

    args = llm_args(engine_dir, spec)
    try:
        policy = CapacitySchedulerPolicy(args["scheduler_config"]["capacity_scheduler_policy"])
        graphs = args["cuda_graph_config"]
        args |= {
            "kv_cache_config": KvCacheConfig(**args["kv_cache_config"]),
            "scheduler_config": SchedulerConfig(capacity_scheduler_policy=policy),
            "cuda_graph_config": None if graphs is None else CudaGraphConfig(**graphs),
        }
        llm = LLM(**args)
    except Exception as error:
        _log.exception("TensorRT-LLM cannot load %s", engine_dir)
        raise RepositoryError(f"TensorRT-LLM cannot load {engine_dir}: {first_line(error)}") from None
    return LlmApiCore(llm, spec, report)
