"""A memory plan as text for a person, and as JSON for a program."""

from __future__ import annotations

import json
from typing import Any

from conch.memory_plan.deployment import input_len, seq_len
from conch.memory_plan.gpus import GIB, MIB
from conch.memory_plan.planner import MemoryPlan, Verdict
from conch.memory_plan.remedies import Remedy
from conch.memory_plan.weights import parameter_count


def as_text(plan: MemoryPlan, found: tuple[Remedy, ...]) -> str:
    """The plan as lines: what was asked, a table of one GPU's memory, the verdict, and what would help."""
    lines = [*_question(plan), "", *_table(plan), "", *_capacity(plan), "", *verdict_lines(plan), *_notes(plan)]
    if found:
        lines += ["", "What would help, each by itself:" if len(found) > 1 else "What would help:"]
        lines += [f"  {remedy.change:<42} {_outcome(remedy.plan)}" for remedy in found]
    return "\n".join(lines) + "\n"


def as_json(plan: MemoryPlan, found: tuple[Remedy, ...]) -> str:
    """The plan as a JSON object: memory in bytes, lengths in tokens."""
    deployment = plan.deployment
    data: dict[str, Any] = {
        "verdict": plan.verdict.value,
        "gpu": {"name": plan.gpu.name, "memory_bytes": plan.memory_bytes,
                "compute_capability": "{}.{}".format(*plan.gpu.compute_capability)},
        "gpus": deployment.world_size,
        "parameters": parameter_count(plan.model),
        "per_gpu": {
            "weight_bytes": plan.weight_bytes, "activation_bytes": plan.activation_bytes,
            "buffer_bytes": plan.buffer_bytes, "overhead_bytes": plan.overhead_bytes,
            "free_bytes": plan.free_bytes, "kv_bytes_per_token": plan.kv_bytes_per_token,
            "kv_cache_bytes": plan.kv_cache_bytes,
        },
        "kv_bytes_per_token": plan.kv_bytes_per_token_of_model,
        "kv_tokens": plan.kv_tokens,
        "max_seq_len": seq_len(plan.model, deployment),
        "max_input_len": input_len(plan.model, deployment),
        "tokens_per_sequence": plan.tokens_per_sequence,
        "full_sequences": plan.full_sequences,
        "notes": _notes(plan),
        "remedies": [{"change": remedy.change, "verdict": remedy.plan.verdict.value,
                      "gpus": remedy.plan.deployment.world_size, "kv_tokens": remedy.plan.kv_tokens,
                      "full_sequences": remedy.plan.full_sequences} for remedy in found],
    }  # fmt: skip
    return json.dumps(data, indent=2) + "\n"


def _question(plan: MemoryPlan) -> list[str]:
    model, deployment = plan.model, plan.deployment
    experts = f", {model.num_experts} experts" if model.num_experts else ""
    group = f" (group_size {deployment.group_size})" if deployment.quantization.value == "int4_awq" else ""
    return [
        f"{model.model_type}, {parameter_count(model) / 1e9:.2f} billion parameters: {model.num_layers} layers, "
        f"{model.num_heads} heads, {model.num_kv_heads} of them with keys and values of {model.head_dim}{experts}",
        f"{deployment.world_size} x {plan.gpu.name}: tp_size {deployment.tp_size}, pp_size {deployment.pp_size}, "
        f"{deployment.dtype.value}, quantization {deployment.quantization.value}{group}, "
        f"KV cache {deployment.kv_cache_type.value}",
        f"max_batch_size {deployment.max_batch_size}, max_input_len {input_len(model, deployment)}, "
        f"max_seq_len {seq_len(model, deployment)}, max_num_tokens {deployment.max_num_tokens}, "
        f"max_beam_width {deployment.max_beam_width}",
    ]


def _table(plan: MemoryPlan) -> list[str]:
    fraction = plan.deployment.kv_cache_free_gpu_mem_fraction
    share = f"{fraction:g} of the {_gib(max(plan.free_bytes, 0))} that are free"
    most = f"max_tokens_in_paged_kv_cache {plan.deployment.max_tokens_in_paged_kv_cache:,}, less than {share}"
    rows = [
        ("memory", plan.memory_bytes, ""),
        ("weights", plan.weight_bytes, ""),
        ("activations", plan.activation_bytes, "estimate"),
        ("buffers", plan.buffer_bytes, "estimate"),
        ("CUDA and runtime", plan.overhead_bytes, "estimate"),
        ("KV cache", plan.kv_cache_bytes, most if plan.is_capped else share),
    ]
    return [f"{'each GPU':<18} {'GiB':>8}"] + [f"{name:<18} {size / GIB:>8.2f}  {note}".rstrip()
                                              for name, size, note in rows]  # fmt: skip


def _capacity(plan: MemoryPlan) -> list[str]:
    here = plan.kv_bytes_per_token
    return [
        f"A token takes {here:,} bytes of each GPU's KV cache, {plan.kv_bytes_per_token_of_model:,} in all.",
        f"{plan.kv_tokens:,} tokens fit, or {plan.full_sequences:,} sequences of {plan.tokens_per_sequence:,} tokens.",
    ]


def verdict_lines(plan: MemoryPlan) -> list[str]:
    """Whether it fits, in a sentence or two."""
    size = plan.deployment.max_batch_size
    if plan.verdict is Verdict.FITS:
        return [f"It fits, with all {size} sequences of max_batch_size at full length."]
    if plan.verdict is Verdict.FITS_FEWER:
        return [f"It fits, but not {size} sequences at full length at once: {plan.full_sequences} do. "
                "Shorter ones fit in larger number; the others wait."]  # fmt: skip
    if plan.free_bytes <= 0:
        return [f"It does not fit: {_gib(-plan.free_bytes)} are missing on each GPU before there is any KV cache."]
    return [f"It does not fit: the KV cache holds {plan.kv_tokens:,} tokens, and one sequence takes "
            f"{plan.tokens_per_sequence:,}."]  # fmt: skip


def _notes(plan: MemoryPlan) -> list[str]:
    prompt, step = input_len(plan.model, plan.deployment), plan.deployment.max_num_tokens
    if prompt > step:
        return [f"A prompt of max_input_len {prompt} does not go into one step of max_num_tokens {step}: "
                "it needs chunked context."]  # fmt: skip
    return []


def _outcome(plan: MemoryPlan) -> str:
    number = plan.deployment.world_size
    gpus = f"{number} GPU" + ("s" if number > 1 else "")
    return f"{gpus}, {plan.kv_tokens:,} tokens, {plan.full_sequences:,} full sequences"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 10 * MIB else f"{size / MIB:.1f} MiB"
