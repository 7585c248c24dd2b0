"""Engine on vLLM 0.24.0: its AsyncLLM, which batches in processes of its own and answers on an event loop.

The interface is that of vllm/v1/engine/async_llm.py, vllm/sampling_params.py, vllm/outputs.py and
vllm/v1/metrics/loggers.py of that version.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from conch.contract import LORA_TASK_ID
from conch.engines.base import EngineState, Event, Failure, GenerationRequest, Report, StreamingCore, Tokens
from conch.engines.guide_compiler import guide_of, with_exact_integers
from conch.engines.interpreter import require_package
from conch.engines.task_core import TaskCore, first_line, refused
from conch.errors import InvalidArgumentError, RepositoryError, UnavailableError, UnsupportedError
from conch.sampling import Guide, SamplingParams
from conch.spec import Engine as EngineSpec
from conch.spec_vllm import VERSION, LoraModule

_log = logging.getLogger(__name__)
_LOOK_S = 0.5  # how often it is looked whether vLLM's own processes are there
_SEED_BITS = 63  # several answers draw with the seeds that follow
# Nothing is sent to vLLM's makers, and nothing is fetched: the checkpoint is here.
_QUIET = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE")


def engine_args(engine_dir: Path, spec: EngineSpec) -> dict[str, Any]:
    """Keywords of vLLM's AsyncEngineArgs for a spec.

    Args:
        engine_dir: checkpoint.
        spec: engine section of the spec, of the runtime vllm.
    """
    settings = spec.vllm
    assert settings is not None
    own = settings.model_dump(exclude={"version", "container", "lora_modules"})
    lora = {"max_loras", "max_lora_rank", "max_cpu_loras"}
    return {
        **{key: value for key, value in own.items() if settings.enable_lora or key not in lora},
        "model": str(engine_dir),
        "max_model_len": spec.max_seq_len,
        "max_num_seqs": spec.max_batch_size,
        "max_num_batched_tokens": spec.max_num_tokens,
        "enable_prefix_caching": spec.enable_kv_cache_reuse,
        "generation_config": "vllm",  # nothing of the checkpoint's: the request says it all
        "structured_outputs_config": {"backend": "xgrammar"},
        "disable_log_stats": True,  # by vLLM's own loggers; ours is told all the same
    }


def structured_outputs(guide: Guide) -> dict[str, Any]:
    """Keywords of vLLM's StructuredOutputsParams for a guide."""
    if guide.type == "json":
        return {"json": "{}"}  # json_object would let only objects through
    if guide.type == "json_schema":
        return {"json": with_exact_integers(guide.text)}
    return {{"regex": "regex", "ebnf_grammar": "grammar"}[guide.type]: guide.text}


def sampling_params(params: SamplingParams, end_id: int | None = None) -> dict[str, Any]:
    """Keywords of vLLM's SamplingParams for a request, without output_kind and structured_outputs.

    Args:
        params: controls.
        end_id: an id that ends a guided answer, besides those that the request names.
    """
    stop_ids = list(params.end_ids)
    if end_id is not None and end_id not in stop_ids:
        stop_ids.append(end_id)
    drawn = {} if params.greedy else {
        "temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k, "min_p": params.min_p,
        "seed": None if params.seed is None else params.seed % (1 << _SEED_BITS),
    }  # fmt: skip
    return {
        "temperature": 0.0,
        **drawn,
        "n": params.num_sequences,
        "max_tokens": params.max_tokens,
        # It keeps the model's own end from coming too early, even where that ends nothing.
        "min_tokens": params.min_tokens if stop_ids else 0,
        "stop_token_ids": stop_ids,
        "ignore_eos": True,  # it would know one id alone
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logprobs": 0 if params.return_log_probs else None,  # of the chosen tokens alone
        "detokenize": False,
    }


class VllmStats:
    """What vLLM tells of each step.

    Attributes:
        kv_cache_usage: share of the blocks that running requests hold.
        prefix_query_tokens, prefix_hit_tokens: of conch.engines.base.EngineState.
    """

    def __init__(self) -> None:
        self.kv_cache_usage = 0.0
        self.prefix_query_tokens = self.prefix_hit_tokens = 0

    def take(self, stats: Any) -> None:
        """Note a vllm.v1.metrics.stats.SchedulerStats."""
        self.kv_cache_usage = stats.kv_cache_usage
        self.prefix_query_tokens += stats.prefix_cache_stats.queries
        self.prefix_hit_tokens += stats.prefix_cache_stats.hits


class VllmCore(TaskCore):
    """Requests under way at an AsyncLLM.

    Args:
        engine: vllm.v1.engine.async_llm.AsyncLLM.
        spec: engine section of the spec.
        stats: filled by the engine.
        report: told of everything.
    """

    def __init__(self, engine: Any, spec: EngineSpec, stats: VllmStats, report: Report) -> None:
        super().__init__(report)
        assert spec.vllm is not None
        self._engine, self._stats = engine, stats
        self._adapters: dict[int, LoraModule] = {module.id: module for module in spec.vllm.lora_modules}
        self._watch = asyncio.get_running_loop().create_task(self._look())

    def add(self, request: GenerationRequest) -> None:
        import vllm
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = request.params
        guide = guide_of(params)
        end_id = None if guide is None else self._engine.get_tokenizer().eos_token_id
        # Several answers come whole, all at once: who waits for the last of them needs none before.
        kind = RequestOutputKind.DELTA if params.num_sequences == 1 else RequestOutputKind.FINAL_ONLY
        try:
            controls = vllm.SamplingParams(
                **sampling_params(params, end_id), output_kind=kind,
                structured_outputs=None if guide is None else StructuredOutputsParams(**structured_outputs(guide)),
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise refused(error) from None
        self.ask(request.request_id, self._answers(request, controls, self._lora(params.lora_task_id)))

    def state(self) -> EngineState:
        usage = self._stats.kv_cache_usage if self.busy else 0.0  # no step, no news: it would stay as it was
        return EngineState(usage, self._stats.prefix_query_tokens, self._stats.prefix_hit_tokens)

    def death(self, error: Exception) -> bool:
        from vllm.v1.engine.exceptions import EngineDeadError

        return isinstance(error, EngineDeadError)

    async def close(self) -> None:
        self._watch.cancel()
        await self.give_all_up()
        self._engine.shutdown()

    def _lora(self, task_id: int | None) -> Any:
        """A LoRARequest, or None.

        Raises:
            InvalidArgumentError, UnsupportedError: there is no such adapter, or none at all.
        """
        from vllm.lora.request import LoRARequest

        if task_id is None:
            return None
        if not self._adapters:
            raise UnsupportedError(f"{LORA_TASK_ID.name} is not supported by this release: its spec names no adapters")
        module = self._adapters.get(task_id)
        if module is None:
            known = ", ".join(map(str, sorted(self._adapters)))
            raise InvalidArgumentError(f"{LORA_TASK_ID.name} must be one of the spec's ({known}), got {task_id}")
        return LoRARequest(lora_name=module.name, lora_int_id=module.id, lora_path=module.path)

    async def _answers(
        self, request: GenerationRequest, controls: Any, lora: Any
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Ask; AsyncLLM.generate aborts the request when it is cancelled."""
        import vllm

        prompt = vllm.TokensPrompt(prompt_token_ids=list(request.input_ids))
        async for output in self._engine.generate(
            prompt, controls, str(request.request_id), lora_request=lora, priority=request.params.priority
        ):
            yield _events(request, output)

    async def _look(self) -> None:
        """Notice the death of vLLM's own processes when nobody asks them anything, too."""
        while not self._engine.errored:
            await asyncio.sleep(_LOOK_S)
        self._report.broken("vLLM's engine core has ended")


def _events(request: GenerationRequest, output: Any) -> list[Event]:
    """What a vllm.RequestOutput says: new tokens, or the last ones, of each answer."""
    events: list[Event] = []
    for answer in output.outputs:
        if answer.finish_reason not in (None, "stop", "length"):  # abort, error: nobody of ours asked for it
            why = f"the engine gave the request up ({answer.finish_reason})"
            return [Failure(request.request_id, UnavailableError(why))]
        ids, log_probs = list(answer.token_ids), []
        if request.params.return_log_probs:
            log_probs = [position[i].logprob for i, position in zip(ids, answer.logprobs, strict=True)]
        if ids or answer.finish_reason is not None:
            events.append(Tokens(request.request_id, ids, answer.finish_reason, log_probs, answer.index))
    return events


def stat_logger(stats: VllmStats, report: Report) -> Any:
    """A class that vLLM makes a logger of, which it tells of every step."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StepLogger(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            if scheduler_stats is not None:
                stats.take(scheduler_stats)
                report.alive()

        def log_engine_initialized(self) -> None:
            pass

    return StepLogger


async def open_vllm(engine_dir: Path, spec: EngineSpec, report: Report) -> StreamingCore:
    """Load a checkpoint with vLLM.

    Args:
        engine_dir: checkpoint.
        spec: engine section of the spec, of the runtime vllm.
        report: told of everything.

    Raises:
        RepositoryError: vLLM is missing or another version, or cannot load the checkpoint on this machine.
    """
    assert spec.vllm is not None
    for name in _QUIET:
        os.environ.setdefault(name, "1")
    require_package("vllm", VERSION)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    stats = VllmStats()
    try:
        args = AsyncEngineArgs(**engine_args(engine_dir, spec))
        engine = AsyncLLM.from_engine_args(args, stat_loggers=[stat_logger(stats, report)])
    except Exception as error:
        _log.exception("vLLM cannot load %s", engine_dir)
        raise RepositoryError(f"vLLM cannot load {engine_dir}: {first_line(error)}") from None
    return VllmCore(engine, spec, stats, report)
