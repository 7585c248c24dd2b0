"""Published numbers of some models (models.json): plans for what is not fetched yet."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any


@functools.cache
def known_models() -> Mapping[str, Mapping[str, Any]]:
    """Name of a repository of the Hugging Face Hub -> what memory depends on in its config.json."""
    data = json.loads(resources.files(__package__).joinpath("models.json").read_text(encoding="utf-8"))
    models: Mapping[str, Mapping[str, Any]] = data["models"]
    return models


def published_config(uri: str) -> Mapping[str, Any] | None:
    """The published numbers of a source, ``hf://org/name@revision``; None for one that is not known."""
    return known_models().get(uri.removeprefix("hf://").partition("@")[0]) if uri.startswith("hf://") else None
