"""What would make a deployment fit: each remedy is planned again before it is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from conch.errors import ConchError
from conch.memory_plan.deployment import Deployment, KvCacheType, Quantization, input_len, seq_len
from conch.memory_plan.gpus import Gpu, known_gpus
from conch.memory_plan.planner import MemoryPlan, Verdict, plan_memory

_LARGEST_TP = 64
# The mildest first: what it costs in quality grows along the list.
_QUANTIZATIONS = (Quantization.FP8, Quantization.INT8, Quantization.INT4_AWQ, Quantization.NVFP4)
_KV_CACHE_TYPES = (KvCacheType.FP8, KvCacheType.INT8)


@dataclass(frozen=True)
class Remedy:
    """One change that helps.

    Attributes:
        change: settings to change, as text: ``tp_size: 4``.
        plan: what comes of it.
    """

    change: str
    plan: MemoryPlan


def remedies(plan: MemoryPlan) -> tuple[Remedy, ...]:
    """What would help, each by itself, then both of tp_size and quantization; empty if all fits, or nothing helps.

    Where nothing fits, a remedy makes one full sequence fit. Where fewer than max_batch_size fit, it makes all fit.
    """
    if plan.verdict is Verdict.FITS:
        return ()
    enough = (Verdict.FITS,) if plan.verdict is Verdict.FITS_FEWER else (Verdict.FITS, Verdict.FITS_FEWER)
    found = [
        _first(plan, enough, candidates)
        for candidates in (_uncapped(plan), _more_gpus(plan), _quantized(plan), _kv_cache(plan), _shorter(plan),
                           _fewer(plan), _smaller_steps(plan), _other_gpus(plan))
    ]  # fmt: skip
    if found[1] is None and found[2] is None:
        found.append(_first(plan, enough, _more_gpus_quantized(plan)))
    return tuple(remedy for remedy in found if remedy is not None)


_Candidate = tuple[str, Deployment, Gpu]


def _first(plan: MemoryPlan, enough: tuple[Verdict, ...], candidates: Iterator[_Candidate]) -> Remedy | None:
    for change, deployment, gpu in candidates:
        try:
            changed = plan_memory(plan.model, deployment, gpu)
        except ConchError:
            continue  # this GPU or model cannot do that
        if changed.verdict in enough:
            return Remedy(change, changed)
    return None


def _uncapped(plan: MemoryPlan) -> Iterator[_Candidate]:
    """All of the memory that is there for the KV cache."""
    if plan.is_capped:
        unlimited = replace(plan.deployment, max_tokens_in_paged_kv_cache=0)
        yield "max_tokens_in_paged_kv_cache: none", unlimited, plan.gpu


def _more_gpus(plan: MemoryPlan) -> Iterator[_Candidate]:
    for tp in range(plan.deployment.tp_size + 1, _LARGEST_TP + 1):
        yield f"tp_size: {tp}", replace(plan.deployment, tp_size=tp), plan.gpu


def _quantized(plan: MemoryPlan) -> Iterator[_Candidate]:
    for quantization in _QUANTIZATIONS:
        changed = replace(plan.deployment, quantization=quantization)
        if changed.quantized_bits < plan.deployment.quantized_bits:
            yield f"quantization: {quantization.value}", changed, plan.gpu


def _more_gpus_quantized(plan: MemoryPlan) -> Iterator[_Candidate]:
    for tp in range(plan.deployment.tp_size + 1, _LARGEST_TP + 1):
        for change, deployment, gpu in _quantized(plan):
            yield f"tp_size: {tp}, {change}", replace(deployment, tp_size=tp), gpu


def _kv_cache(plan: MemoryPlan) -> Iterator[_Candidate]:
    if plan.deployment.kv_cache_type is KvCacheType.AUTO:
        for kv_cache_type in _KV_CACHE_TYPES:
            changed = replace(plan.deployment, kv_cache_type=kv_cache_type)
            yield f"kv_cache_type: {kv_cache_type.value}", changed, plan.gpu


def _shorter(plan: MemoryPlan) -> Iterator[_Candidate]:
    """Sequences as long as the cache holds: of one sequence, or of max_batch_size."""
    deployment, block = plan.deployment, plan.deployment.tokens_per_block
    sequences = deployment.max_batch_size if plan.verdict is Verdict.FITS_FEWER else 1
    longest = plan.kv_tokens // (sequences * deployment.max_beam_width) // block * block
    if not 2 <= longest < seq_len(plan.model, deployment):
        return
    shares = input_len(plan.model, deployment) / seq_len(plan.model, deployment)
    prompt = min(max(int(longest * shares), 1), longest - 1)
    change = f"max_seq_len: {longest}"
    changed = replace(deployment, max_seq_len=longest)
    if deployment.max_input_len:
        change, changed = f"{change}, max_input_len: {prompt}", replace(changed, max_input_len=prompt)
    yield change, changed, plan.gpu


def _fewer(plan: MemoryPlan) -> Iterator[_Candidate]:
    """Fewer sequences at once: as many as fit, or ever fewer while the buffers are what is too large."""
    size = plan.full_sequences or plan.deployment.max_batch_size // 2
    while 1 <= size < plan.deployment.max_batch_size:
        yield f"max_batch_size: {size}", replace(plan.deployment, max_batch_size=size), plan.gpu
        size //= 2


def _smaller_steps(plan: MemoryPlan) -> Iterator[_Candidate]:
    tokens = plan.deployment.max_num_tokens // 2
    while tokens >= max(plan.deployment.max_batch_size * plan.deployment.max_beam_width, 512):
        yield f"max_num_tokens: {tokens}", replace(plan.deployment, max_num_tokens=tokens), plan.gpu
        tokens //= 2


def _other_gpus(plan: MemoryPlan) -> Iterator[_Candidate]:
    for gpu in sorted(known_gpus(), key=lambda gpu: gpu.memory_bytes):
        if gpu.memory_bytes > plan.gpu.memory_bytes:
            yield f"gpu: {gpu.name}", plan.deployment, gpu
