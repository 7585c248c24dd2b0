"""Adds up what a deployment takes on each GPU, and says how many tokens and sequences fit beside the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from conch.memory_plan.architecture import Architecture
from conch.memory_plan.deployment import Deployment, check, input_len, seq_len
from conch.memory_plan.gpus import GIB, Gpu
from conch.memory_plan.weights import weight_bytes

# Fitted to memory logs of TensorRT-LLM; which ones, and how far off: docs/memory_planner.md.
_ACTIVATION_HIDDEN = 2
_ACTIVATION_INTERMEDIATE = 6
_BUFFER_BYTES_PER_VOCAB_AND_SEQUENCE = 44
_OVERHEAD_BYTES = 3 * GIB // 2  # what CUDA hides of the memory, its context, TensorRT
_COMMUNICATION_BYTES = GIB // 2  # NCCL and the all-reduce workspace, where there is more than one GPU


class Verdict(str, Enum):
    """Whether a deployment fits."""

    FITS = "fits"  # max_batch_size sequences of max_seq_len at once
    FITS_FEWER = "fits_fewer"  # at least one; the others wait, or are paused
    DOES_NOT_FIT = "does_not_fit"  # not even one


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of the fullest GPU, in bytes, and what it is good for.

    Attributes:
        model, deployment, gpu: what was asked.
        memory_bytes: of one GPU.
        weight_bytes: of the fullest GPU, as ``weights.weight_bytes``.
        activation_bytes: tensors between layers for max_num_tokens tokens (estimate).
        buffer_bytes: runtime and decoder buffers for max_batch_size sequences (estimate).
        overhead_bytes: CUDA, TensorRT and NCCL (estimate).
        free_bytes: what is left for the KV cache and a reserve; negative where it does not even load.
        kv_bytes_per_token: on this GPU.
        kv_bytes_per_token_of_model: on all GPUs together, each head counted once.
        kv_cache_bytes: kv_cache_free_gpu_mem_fraction of what is free, in whole blocks; no more than
            max_tokens_in_paged_kv_cache takes.
        kv_tokens: tokens that the KV cache holds.
        tokens_per_sequence: tokens that one sequence of max_seq_len holds in the cache, its beams among them.
        full_sequences: such sequences at once.
        verdict: whether that is enough.
    """

    model: Architecture
    deployment: Deployment
    gpu: Gpu
    memory_bytes: int
    weight_bytes: int
    activation_bytes: int
    buffer_bytes: int
    overhead_bytes: int
    free_bytes: int
    kv_bytes_per_token: int
    kv_bytes_per_token_of_model: int
    kv_cache_bytes: int
    kv_tokens: int
    tokens_per_sequence: int
    full_sequences: int
    verdict: Verdict

    @property
    def sequence_bytes(self) -> int:
        """What one sequence of max_seq_len takes of the KV cache of one GPU."""
        return self.kv_bytes_per_token * self.tokens_per_sequence

    @property
    def is_capped(self) -> bool:
        """Whether max_tokens_in_paged_kv_cache, and not the memory, says how large the KV cache is."""
        most = self.deployment.max_tokens_in_paged_kv_cache
        fitting = max(self.free_bytes, 0) * self.deployment.kv_cache_free_gpu_mem_fraction
        return most > 0 and self.kv_cache_bytes + self.kv_bytes_per_token * self.deployment.tokens_per_block <= fitting

    @property
    def exceeds_memory(self) -> bool:
        """Whether the weights and one sequence are too large, whatever the estimates say."""
        return self.weight_bytes + self.sequence_bytes > self.memory_bytes


def plan_memory(model: Architecture, deployment: Deployment, gpu: Gpu) -> MemoryPlan:
    """Plan the memory of one deployment on GPUs of one kind.

    Raises:
        InvalidArgumentError, UnsupportedError: the deployment cannot be, whatever the memory; as ``check``.
    """
    check(model, deployment, gpu)
    weights = weight_bytes(model, deployment)
    activations = activation_bytes(model, deployment)
    buffers = buffer_bytes(model, deployment)
    overhead = _OVERHEAD_BYTES + (_COMMUNICATION_BYTES if deployment.world_size > 1 else 0)
    free = gpu.memory_bytes - weights - activations - buffers - overhead
    per_token = kv_bytes_per_token(model, deployment)
    block = per_token * deployment.tokens_per_block
    blocks = max(math.floor(free * deployment.kv_cache_free_gpu_mem_fraction) // block, 0)
    if deployment.max_tokens_in_paged_kv_cache:
        blocks = min(blocks, math.ceil(deployment.max_tokens_in_paged_kv_cache / deployment.tokens_per_block))
    sequence = tokens_per_sequence(model, deployment)
    full = blocks * deployment.tokens_per_block // sequence
    verdict = Verdict.FITS if full >= deployment.max_batch_size else Verdict.FITS_FEWER
    return MemoryPlan(
        model=model, deployment=deployment, gpu=gpu, memory_bytes=gpu.memory_bytes, weight_bytes=weights,
        activation_bytes=activations, buffer_bytes=buffers, overhead_bytes=overhead, free_bytes=free,
        kv_bytes_per_token=per_token, kv_bytes_per_token_of_model=kv_bytes_per_token_of_model(model, deployment),
        kv_cache_bytes=blocks * block, kv_tokens=blocks * deployment.tokens_per_block, tokens_per_sequence=sequence,
        full_sequences=full, verdict=verdict if full else Verdict.DOES_NOT_FIT,
    )  # fmt: skip


def kv_bytes_per_token(model: Architecture, deployment: Deployment) -> int:
    """Bytes that one token takes in the KV cache of the fullest GPU: keys and values of its layers and heads."""
    layers = math.ceil(model.num_layers / deployment.pp_size)
    heads = max(model.num_kv_heads // deployment.tp_size, 1)
    return 2 * layers * heads * model.head_dim * deployment.kv_bytes


def kv_bytes_per_token_of_model(model: Architecture, deployment: Deployment) -> int:
    """Bytes that one token takes in the KV cache of all GPUs together, copies of heads not counted."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * deployment.kv_bytes


def activation_bytes(model: Architecture, deployment: Deployment) -> int:
    """Estimate of what TensorRT sets aside for the tensors between layers: that of one layer, for max_num_tokens."""
    columns = model.intermediate_size * max(model.experts_per_token, 1) + model.shared_intermediate_size
    columns = max(columns, model.dense_intermediate_size if model.dense_layers else 0)
    per_token = _ACTIVATION_HIDDEN * model.hidden_size + _ACTIVATION_INTERMEDIATE * columns // deployment.tp_size
    return per_token * deployment.dtype.bytes * deployment.max_num_tokens


def buffer_bytes(model: Architecture, deployment: Deployment) -> int:
    """Estimate of the runtime's and the decoder's buffers: logits and their like, for each sequence and beam."""
    sequences = deployment.max_batch_size * deployment.max_beam_width
    return _BUFFER_BYTES_PER_VOCAB_AND_SEQUENCE * model.vocab_size * sequences


def tokens_per_sequence(model: Architecture, deployment: Deployment) -> int:
    """Tokens of the KV cache that a sequence of max_seq_len takes, in whole blocks; beams share the prompt."""
    prompt, longest = input_len(model, deployment), seq_len(model, deployment)
    if deployment.max_beam_width == 1:
        return _whole_blocks(longest, deployment)
    shared = prompt // deployment.tokens_per_block * deployment.tokens_per_block
    return shared + deployment.max_beam_width * _whole_blocks(longest - shared, deployment)


def _whole_blocks(tokens: int, deployment: Deployment) -> int:
    return math.ceil(tokens / deployment.tokens_per_block) * deployment.tokens_per_block
