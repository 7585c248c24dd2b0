"""What a Hugging Face config.json says against what the spec asks for, before anything long is begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conch.errors import BuildError, InvalidArgumentError
from conch.memory_plan.architecture import Architecture, parse_architecture
from conch.memory_plan.deployment import check_model as check_deployment
from conch.memory_plan.from_spec import engine_deployment, in_spec_words
from conch.spec import Engine
from conch.spec_trtllm import CONVERTERS, TensorRtLlm


def check_model(config: Mapping[str, Any], engine: Engine, settings: TensorRtLlm) -> Architecture:
    """Check that a model can be cut up and quantized as the spec asks; returns the model in numbers.

    Args:
        config: of the checkpoint.
        engine: section ``engine`` of the spec.
        settings: its section ``tensorrt_llm``.

    Raises:
        BuildError: names key, rule and value.
    """
    named = config.get("architectures")
    found = named[0] if isinstance(named, list) and named else "none"
    if not isinstance(found, str) or found not in CONVERTERS:
        raise BuildError(
            f"architectures of the model's config.json must be one of {', '.join(CONVERTERS)}, got {found}",
            mend="Only decoders of these families are converted",
        )
    if found != settings.architecture:
        raise BuildError(f"engine.tensorrt_llm.architecture must be the model's, {found}, got {settings.architecture}")
    try:
        model = parse_architecture(config)
        if model.quantization:
            raise InvalidArgumentError(
                f"quantization_config of the model's config.json must not be there, got {model.quantization}",
                mend="The build quantizes by itself: name the checkpoint that this one was made from",
            )
        check_deployment(model, engine_deployment(engine, settings, model))
    except InvalidArgumentError as error:
        raise BuildError(in_spec_words(error.message), mend=error.mend) from None
    return model
