"""vllm/v1/engine/async_llm.py: AsyncLLM, which answers with what a test puts in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

from vllm import TokensPrompt
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, Logprob, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats

Script = Callable[["Asked"], AsyncGenerator[list[CompletionOutput], None]]


@dataclass
class Asked:
    """A request as it arrived, and what a test may use to answer it."""

    request_id: str
    prompt: TokensPrompt
    params: SamplingParams
    lora_request: LoRARequest | None
    priority: int
    aborted: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


async def count_up(asked: Asked) -> AsyncGenerator[list[CompletionOutput], None]:
    """Answers with the ids 100, 101, …, one in a step, up to max_tokens or an id in stop_token_ids."""
    params = asked.params
    assert params.max_tokens is not None
    ids: list[int] = []
    for count in range(1, params.max_tokens + 1):
        await asyncio.sleep(0)
        ids.append(99 + count)
        reason = None
        if ids[-1] in (params.stop_token_ids or ()) and count >= params.min_tokens:
            reason = "stop"
        elif count == params.max_tokens:
            reason = "length"
        if params.output_kind is RequestOutputKind.DELTA:
            yield [completion(0, ids[-1:], reason, params.logprobs)]
        elif reason is not None:
            yield [completion(index, ids, reason, params.logprobs) for index in range(params.n)]
        if reason is not None:
            return


def completion(index: int, ids: list[int], reason: str | None, logprobs: int | None) -> CompletionOutput:
    """An answer; log probs are minus a hundredth of the id, a likelier token stands beside each where asked for."""
    found = None if logprobs is None else [
        {i: Logprob(-i / 100), **({9999: Logprob(-0.1)} if logprobs else {})} for i in ids
    ]  # fmt: skip
    return CompletionOutput(index, "", list(ids), None, found, reason)


class AsyncLLM:
    """Answers requests by ``script``; a test may set ``dead``."""

    script: Script = staticmethod(count_up)
    made: list[AsyncLLM] = []  # noqa: RUF012

    def __init__(self, engine_args: AsyncEngineArgs, stat_loggers: list[type[StatLoggerBase]]) -> None:
        self.args = engine_args
        self.loggers = [logger(object(), 0) for logger in stat_loggers]
        self.asked: list[Asked] = []
        self.dead = self.closed = False
        AsyncLLM.made.append(self)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: AsyncEngineArgs,
        start_engine_loop: bool = True,
        usage_context: object = None,
        stat_loggers: list[type[StatLoggerBase]] | None = None,
    ) -> AsyncLLM:
        asyncio.get_running_loop()  # it must be made on one
        return cls(engine_args, stat_loggers or [])

    async def generate(
        self,
        prompt: TokensPrompt,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        if self.dead:
            raise EngineDeadError
        asked = Asked(request_id, prompt, sampling_params, lora_request, priority)
        self.asked.append(asked)
        try:
            async for outputs in type(self).script(asked):
                if self.dead:
                    raise EngineDeadError
                self.step(0.5, queries=len(prompt["prompt_token_ids"]))
                finished = all(output.finish_reason for output in outputs)
                yield RequestOutput(request_id, None, prompt["prompt_token_ids"], None, outputs, finished)
        except (asyncio.CancelledError, GeneratorExit):
            asked.aborted = True
            raise

    def step(self, usage: float, queries: int = 0) -> None:
        """Tell the loggers of a step."""
        for logger in self.loggers:
            logger.record(SchedulerStats(1, 0, usage, PrefixCacheStats(queries=queries, hits=1)), None)

    def get_tokenizer(self) -> SimpleNamespace:
        return SimpleNamespace(eos_token_id=7)

    @property
    def errored(self) -> bool:
        return self.dead

    def shutdown(self, timeout: float | None = None) -> None:
        self.closed = True
