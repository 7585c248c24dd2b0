"""What a Hugging Face config.json says of a decoder-only model: the numbers that memory depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import InvalidArgumentError

_LARGEST = 1 << 32  # no field of a config is larger; keeps sums of nonsense from growing without bound


@dataclass(frozen=True)
class _Family:
    """What a model_type leaves unsaid in its config.json."""

    tied: bool = False  # tie_word_embeddings, where the config does not say
    qkv_bias: bool = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    head_dim: int | None = None  # where neither head_dim nor hidden_size / heads is right
    experts_key: str = ""


# By model_type. All have RMSNorm and a gated MLP: three matrices, gate, up and down.
_FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(),
    "mixtral": _Family(experts_key="num_local_experts"),
    "phi3": _Family(),
    "qwen2": _Family(qkv_bias=True),
    "qwen2_moe": _Family(qkv_bias=True, experts_key="num_experts"),
    "qwen3": _Family(qk_norm=True),
    "qwen3_moe": _Family(qk_norm=True, experts_key="num_experts"),
    "gemma": _Family(tied=True, head_dim=256),
    "gemma2": _Family(tied=True, head_dim=256, norms_per_layer=4),
}


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer, in numbers.

    Attributes:
        model_type: as in config.json.
        num_layers, hidden_size, vocab_size, num_heads, num_kv_heads, head_dim: of the whole model.
        intermediate_size: columns of an MLP, or of one expert.
        num_experts: experts in a layer; 0: a plain MLP.
        experts_per_token: experts that one token goes through; 0 without experts.
        shared_intermediate_size: columns of the MLP that every token goes through beside the experts; 0: none.
        dense_layers, dense_intermediate_size: layers with a plain MLP in a model with experts, and its columns.
        tied_embeddings: the output projection is the embedding table.
        qkv_bias, output_bias, mlp_bias, qk_norm: small vectors that some models have.
        norms_per_layer: norm vectors of hidden_size in a layer.
        context: max_position_embeddings, times the factor of a linear or dynamic rope_scaling.
        dtype: dtype of the checkpoint; empty if config.json does not say.
        quantization: quant_method of a checkpoint that is quantized already; empty if it is not.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    num_experts: int = 0
    experts_per_token: int = 0
    shared_intermediate_size: int = 0
    dense_layers: int = 0
    dense_intermediate_size: int = 0
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    context: int = 0
    dtype: str = ""
    quantization: str = ""


def read_architecture(path: Path) -> Architecture:
    """Read a config.json, or that of a folder.

    Raises:
        InvalidArgumentError: it cannot be read, is not JSON, or as ``parse_architecture``.
    """
    if path.is_dir():
        path = path / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"config {path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"config {path} must hold a JSON object")
    return parse_architecture(config)


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read the content of a config.json.

    Raises:
        InvalidArgumentError: not a decoder-only model that the planner knows, or a field is missing or impossible;
            names field, rule and value.
    """
    family = _family(config)
    hidden = _number(config, "hidden_size")
    heads = _number(config, "num_attention_heads")
    kv_heads = _number(config, "num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise InvalidArgumentError(f"num_key_value_heads must divide num_attention_heads {heads}, got {kv_heads}")
    head_dim = family.head_dim or hidden // heads
    if config.get("head_dim") is None and family.head_dim is None and hidden % heads:
        raise InvalidArgumentError(f"num_attention_heads must divide hidden_size {hidden}, got {heads}")
    layers = _number(config, "num_hidden_layers")
    return Architecture(
        model_type=config["model_type"], num_layers=layers, hidden_size=hidden,
        vocab_size=_number(config, "vocab_size"), num_heads=heads, num_kv_heads=kv_heads,
        head_dim=_number(config, "head_dim", default=head_dim),
        tied_embeddings=_flag(config, "tie_word_embeddings", family.tied),
        qkv_bias=family.qkv_bias or _flag(config, "attention_bias", False),
        output_bias=_flag(config, "attention_bias", False) and not family.qkv_bias,
        mlp_bias=_flag(config, "mlp_bias", False), qk_norm=family.qk_norm, norms_per_layer=family.norms_per_layer,
        context=_context(config), dtype=_dtype(config), quantization=_quantization(config),
        **_mlp(config, family, layers),
    )  # fmt: skip


def _family(config: Mapping[str, Any]) -> _Family:
    known = ", ".join(_FAMILIES)
    model_type = config.get("model_type")
    if "text_config" in config or "vision_config" in config:
        raise InvalidArgumentError(f"model_type must be one of {known}, got {model_type!r}, which is multimodal")
    if config.get("is_encoder_decoder") is True:
        raise InvalidArgumentError(f"model_type must be a decoder-only LLM ({known}), got {model_type!r}, "
                                   "which has an encoder")  # fmt: skip
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise InvalidArgumentError(f"model_type must be one of {known}, got {model_type!r}")
    return _FAMILIES[model_type]


def _mlp(config: Mapping[str, Any], family: _Family, layers: int) -> dict[str, int]:
    if not family.experts_key:
        return {"intermediate_size": _number(config, "intermediate_size")}
    experts = _number(config, family.experts_key)
    per_token = _number(config, "num_experts_per_tok", default=2)
    if per_token > experts:
        raise InvalidArgumentError(f"num_experts_per_tok must be <= {family.experts_key} {experts}, got {per_token}")
    if family.experts_key == "num_local_experts":
        return {"intermediate_size": _number(config, "intermediate_size"), "num_experts": experts,
                "experts_per_token": per_token}  # fmt: skip
    return {
        "intermediate_size": _number(config, "moe_intermediate_size"), "num_experts": experts,
        "experts_per_token": per_token,
        "shared_intermediate_size": _number(config, "shared_expert_intermediate_size", default=0, least=0),
        "dense_layers": _dense_layers(config, layers),
        "dense_intermediate_size": _number(config, "intermediate_size"),
    }  # fmt: skip


def _dense_layers(config: Mapping[str, Any], layers: int) -> int:
    """Layers without experts: those of mlp_only_layers, and all but every decoder_sparse_step-th."""
    step = _number(config, "decoder_sparse_step", default=1)
    listed = config.get("mlp_only_layers") or []
    if not isinstance(listed, list):
        raise InvalidArgumentError(f"mlp_only_layers must be a list, got {listed!r}")
    if layers > 1 << 16:
        raise InvalidArgumentError(f"num_hidden_layers must be <= {1 << 16}, got {layers}")
    return sum(1 for layer in range(layers) if layer in listed or (layer + 1) % step)


def _number(config: Mapping[str, Any], key: str, default: int | None = None, least: int = 1) -> int:
    value = config.get(key)
    if value is None:
        if default is None:
            raise InvalidArgumentError(f"config.json must have {key}")
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise InvalidArgumentError(f"{key} must be a whole number in [{least}, {_LARGEST}], got {value!r}")
    return value


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{key} must be true or false, got {value!r}")
    return value


def _context(config: Mapping[str, Any]) -> int:
    context = _number(config, "max_position_embeddings", default=0, least=1)
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, Mapping):
        return context
    # These stretch what max_position_embeddings says; the others (llama3, longrope) have it stretched already.
    stretches = scaling.get("type", scaling.get("rope_type")) in ("linear", "dynamic", "yarn")
    factor = scaling.get("factor")
    if not stretches or isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 1e6:
        return context
    original = scaling.get("original_max_position_embeddings")
    base = original if isinstance(original, int) and not isinstance(original, bool) and original > 0 else context
    return max(context, int(base * factor))


def _dtype(config: Mapping[str, Any]) -> str:
    value = config.get("torch_dtype", config.get("dtype"))
    return value.removeprefix("torch.") if isinstance(value, str) else ""


def _quantization(config: Mapping[str, Any]) -> str:
    settings = config.get("quantization_config")
    if settings is None:
        return ""
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if not isinstance(method, str) or not method:
        raise InvalidArgumentError(f"quantization_config must be an object with quant_method, got {settings!r}")
    return method
