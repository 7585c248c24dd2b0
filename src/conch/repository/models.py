"""The models that a release consists of."""

from __future__ import annotations

from conch.contract import MODEL_NAMES, model_names
from conch.spec import ModelSpec
from conch.trtllm.tensors import BACKEND_MODEL

# Every name that some release has.
ALL_MODELS = (*MODEL_NAMES, BACKEND_MODEL)


def release_models(spec: ModelSpec) -> tuple[str, ...]:
    """Names of a release's models, folders of the repository."""
    names = model_names(spec.serving.twins)
    return names if spec.engine.tensorrt_llm is None else (*names, BACKEND_MODEL)
