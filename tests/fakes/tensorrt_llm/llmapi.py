"""tensorrt_llm/llmapi: LLM, which answers with what a test puts in, and its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

# Keywords of LLM that Conch sets: fields of TorchLlmArgs.
LLM_ARGS = {
    "model", "tensor_parallel_size", "pipeline_parallel_size", "dtype", "trust_remote_code", "load_format", "backend",
    "kv_cache_config", "cuda_graph_config", "scheduler_config", "enable_chunked_prefill", "guided_decoding_backend",
    "attn_backend", "sampler_type", "disable_overlap_scheduler", "max_batch_size", "max_num_tokens", "max_seq_len",
    "max_input_len", "max_beam_width", "enable_iter_perf_stats", "stream_interval",
}  # fmt: skip


class RequestError(RuntimeError):
    """A request failed; the executor goes on."""


class CapacitySchedulerPolicy(str, Enum):
    """Of SchedulerConfig."""

    MAX_UTILIZATION = "MAX_UTILIZATION"
    GUARANTEED_NO_EVICT = "GUARANTEED_NO_EVICT"
    STATIC_BATCH = "STATIC_BATCH"


@dataclass
class SchedulerConfig:
    """Of LLM."""

    capacity_scheduler_policy: CapacitySchedulerPolicy = CapacitySchedulerPolicy.GUARANTEED_NO_EVICT


@dataclass
class KvCacheConfig:
    """Of LLM."""

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    host_cache_size: int | None = None
    enable_partial_reuse: bool = True
    dtype: str = "auto"
    tokens_per_block: int = 32


@dataclass
class CudaGraphConfig:
    """Of LLM."""

    batch_sizes: list[int] | None = None
    max_batch_size: int = 0
    enable_padding: bool = False


@dataclass(kw_only=True)
class GuidedDecodingParams:
    """What an answer must be: one of them."""

    json: str | None = None
    regex: str | None = None
    grammar: str | None = None
    json_object: bool = False


@dataclass(kw_only=True)
class SamplingParams:
    """Controls of a request."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    n: int = 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    min_p: float | None = None
    logprobs: int | None = None
    guided_decoding: GuidedDecodingParams | None = None
    detokenize: bool = True
    add_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        greedy = self.top_k == 1 or self.top_p == 0 or self.temperature == 0
        if self.n > 1 and greedy:
            raise ValueError("Greedy decoding in the LLM API does not allow multiple returns.")


@dataclass(slots=True)
class Logprob:
    """Of one token."""

    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One answer so far."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    _last_token_ids_len: int = field(default=0, init=False, repr=False)
    _last_logprobs_len: int = field(default=0, init=False, repr=False)

    @property
    def token_ids_diff(self) -> list[int]:
        """What is new since the step before."""
        return self.token_ids[self._last_token_ids_len :]

    @property
    def logprobs_diff(self) -> list[Any]:
        """What is new since the step before."""
        return self.logprobs[self._last_logprobs_len :]

    def extend(self, ids: list[int], log_probs: bool) -> None:
        """What executor/result.py does with a response."""
        self._last_token_ids_len, self._last_logprobs_len = len(self.token_ids), len(self.logprobs)
        self.token_ids = [*self.token_ids, *ids]
        if log_probs:
            self.logprobs = [*self.logprobs, *({i: Logprob(-i / 100)} for i in ids)]


class RequestOutput:
    """The result of generate_async: itself the stream, and the answer at its end."""

    def __init__(self, prompt_token_ids: list[int], params: SamplingParams, streaming: bool) -> None:
        self.prompt_token_ids, self.params, self.streaming = prompt_token_ids, params, streaming
        self.outputs = [CompletionOutput(index) for index in range(params.n)]
        self.finished = self.aborted = False
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    def abort(self) -> None:
        self.aborted = True

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self.finished:
            raise StopAsyncIteration
        await self.go_on.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self._one_more()
        return self

    async def aresult(self) -> RequestOutput:
        while not self.finished:
            await self.__anext__()
        return self

    def _one_more(self) -> None:
        params = self.params
        ends = {params.end_id, *(params.stop_token_ids or ())}
        for output in self.outputs:
            count = len(output.token_ids) + 1
            output.extend([99 + count], bool(params.logprobs))
            if output.token_ids[-1] in ends and count >= (params.min_tokens or 1):
                output.finish_reason = "stop"
            elif count == params.max_tokens:
                output.finish_reason = "length"
        self.finished = all(output.finish_reason for output in self.outputs)


class LLM:
    """Answers each request with the ids 100, 101, …, one in a step; a test may change what comes next."""

    made: list[LLM] = []  # noqa: RUF012
    prepare: Callable[[RequestOutput], None] = staticmethod(lambda result: None)

    def __init__(self, **kwargs: Any) -> None:
        unknown = set(kwargs) - LLM_ARGS
        if unknown:
            raise ValueError(f"LLM got invalid argument: {unknown.pop()}")
        self.args = kwargs
        self.asked: list[RequestOutput] = []
        self.closed = False
        self.stats: list[dict[str, Any]] = []
        self.tokenizer = SimpleNamespace(eos_token_id=7)
        LLM.made.append(self)

    def generate_async(
        self,
        inputs: dict[str, list[int]],
        sampling_params: SamplingParams | None = None,
        streaming: bool = False,
    ) -> RequestOutput:
        assert sampling_params is not None
        result = RequestOutput(inputs["prompt_token_ids"], sampling_params, streaming)
        type(self).prepare(result)
        self.asked.append(result)
        self.stats.append({"kvCacheStats": {"usedNumBlocks": 3, "maxNumBlocks": 12}})
        return result

    async def get_stats_async(self, timeout: float | None = 2) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(0)
        while self.stats:
            yield self.stats.pop(0)

    def shutdown(self) -> None:
        self.closed = True
