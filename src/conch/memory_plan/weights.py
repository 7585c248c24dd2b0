"""How many weights a model has, and what they take on the fullest GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conch.memory_plan.architecture import Architecture
from conch.memory_plan.deployment import Deployment


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer, as numbers, on one GPU.

    Attributes:
        matrices: of attention and MLP; these are what a quantization shrinks.
        rest: norms, biases and the router of experts; they keep the dtype.
    """

    matrices: int
    rest: int


def parameter_count(model: Architecture) -> int:
    """Parameters of the whole model, as its card counts them: a tied output projection counts once."""
    sparse, dense = layer_weights(model, 1, dense=False), layer_weights(model, 1, dense=True)
    layers = (sparse.matrices + sparse.rest) * (model.num_layers - model.dense_layers)
    layers += (dense.matrices + dense.rest) * model.dense_layers
    tables = model.vocab_size * model.hidden_size * (1 if model.tied_embeddings else 2)
    return layers + tables + model.hidden_size


def weight_bytes(model: Architecture, deployment: Deployment) -> int:
    """Bytes of the weights on the GPU that has most of them.

    Every GPU of a stage has 1/tp_size of each matrix, and all of norms and router. The embedding table lies on the
    first stage, the output projection on the last; neither is quantized. Key and value heads are copied where there
    are fewer of them than GPUs.
    """
    sparse = layer_weights(model, deployment.tp_size, dense=False)
    dense = layer_weights(model, deployment.tp_size, dense=True)
    stage = math.ceil(model.num_layers / deployment.pp_size)
    # Which layers are dense is not kept: the heavier kind fills the fullest stage first.
    heavy, light, heavy_count = sparse, dense, model.num_layers - model.dense_layers
    if dense.matrices > sparse.matrices:
        heavy, light, heavy_count = dense, sparse, model.dense_layers
    heavy_here = min(stage, heavy_count)
    matrices = heavy.matrices * heavy_here + light.matrices * (stage - heavy_here)
    rest = heavy.rest * heavy_here + light.rest * (stage - heavy_here)
    layers = matrices * deployment.quantized_bits / 8 + rest * deployment.dtype.bytes
    return math.ceil(layers) + _table_weights(model, deployment) * deployment.dtype.bytes


def layer_weights(model: Architecture, tp: int, *, dense: bool) -> LayerWeights:
    """Weights of one layer on one of ``tp`` GPUs; ``dense``: a layer with a plain MLP in a model with experts."""
    hidden, heads = model.hidden_size, model.num_heads // tp
    kv_heads = max(model.num_kv_heads // tp, 1)
    attention = hidden * model.head_dim * (2 * heads + 2 * kv_heads)
    rest = hidden * model.norms_per_layer + (2 * model.head_dim if model.qk_norm else 0)
    rest += model.head_dim * (heads + 2 * kv_heads) if model.qkv_bias else 0
    rest += hidden if model.output_bias else 0
    if model.num_experts and not dense:
        mlp = 3 * hidden * (model.num_experts * model.intermediate_size + model.shared_intermediate_size) // tp
        rest += hidden * model.num_experts + (hidden if model.shared_intermediate_size else 0)
    else:
        columns = model.dense_intermediate_size if dense and model.num_experts else model.intermediate_size
        mlp = 3 * hidden * columns // tp
        rest += 2 * columns // tp + hidden if model.mlp_bias else 0
    return LayerWeights(attention + mlp, rest)


def _table_weights(model: Architecture, deployment: Deployment) -> int:
    """Weights of the embedding table, the output projection and the last norm on the fullest GPU."""
    tp, hidden = deployment.tp_size, model.hidden_size
    shard = math.ceil(model.vocab_size / tp) * hidden
    embedding = shard if deployment.use_parallel_embedding else model.vocab_size * hidden
    if deployment.pp_size > 1:
        return max(embedding, shard + hidden)
    shared = model.tied_embeddings and (tp == 1 or deployment.use_parallel_embedding)
    return embedding + (0 if shared else shard) + hidden
