"""What a Hugging Face config.json says against what the spec asks for, before anything long is begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conch.errors import BuildError
from conch.spec import Engine
from conch.spec_trtllm import CONVERTERS, TensorRtLlm


def check_model(config: Mapping[str, Any], engine: Engine, settings: TensorRtLlm) -> None:
    """Check that a model can be cut up and quantized as the spec asks.

    Args:
        config: of the checkpoint.
        engine: section ``engine`` of the spec.
        settings: its section ``tensorrt_llm``.

    Raises:
        BuildError: names key, rule and value.
    """
    named = config.get("architectures")
    found = named if isinstance(named, list) and named else ["none"]
    if found[0] not in CONVERTERS:
        raise BuildError(
            f"architectures of the model's config.json must be one of {', '.join(CONVERTERS)}, got {found[0]}",
            mend="Only decoders of these families are converted",
        )
    if found[0] != settings.architecture:
        raise BuildError(
            f"engine.tensorrt_llm.architecture must be the model's, {found[0]}, got {settings.architecture}"
        )
    heads, layers = _number(config, "num_attention_heads"), _number(config, "num_hidden_layers")
    kv_heads = heads if config.get("num_key_value_heads") is None else _number(config, "num_key_value_heads")
    if heads % settings.tp_size:
        raise BuildError(f"engine.tensorrt_llm.tp_size must divide the model's {heads} heads, got {settings.tp_size}")
    if kv_heads % settings.tp_size and settings.tp_size % kv_heads:
        raise BuildError(
            f"engine.tensorrt_llm.tp_size must divide the model's {kv_heads} heads of keys and values, or be a "
            f"multiple of it, got {settings.tp_size}"
        )
    if settings.pp_size > layers:
        raise BuildError(f"engine.tensorrt_llm.pp_size must be at most {layers}, the layers, got {settings.pp_size}")
    context = _number(config, "max_position_embeddings")
    if engine.max_seq_len is not None and engine.max_seq_len > context:
        raise BuildError(f"engine.max_seq_len must be at most {context}, the model's context, got {engine.max_seq_len}")
    _check_groups(config, settings)


def _check_groups(config: Mapping[str, Any], settings: TensorRtLlm) -> None:
    quantization = settings.quantization
    if quantization.qformat not in ("int4_awq", "w4a8_awq"):
        return
    columns = {
        "hidden_size": _number(config, "hidden_size"),
        "intermediate_size divided by tp_size": _number(config, "intermediate_size") // settings.tp_size,
    }
    for what, size in columns.items():
        if size % quantization.awq_block_size:
            raise BuildError(
                f"engine.tensorrt_llm.quantization.awq_block_size must divide the model's {what}, {size}, got "
                f"{quantization.awq_block_size}"
            )


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BuildError(f"{key} of the model's config.json must be a number >= 1, got {value!r}")
    return value
