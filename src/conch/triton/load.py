"""Loading of a stage: a config.pbtxt that does not fit the code fails the load, in one sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import triton_python_backend_utils as pb_utils

from conch.contract import ModelContract
from conch.errors import ConchError, RepositoryError

_Stage = TypeVar("_Stage")


def load_stage(build: Callable[[Path], _Stage], contract: ModelContract, args: Mapping[str, str]) -> _Stage:
    """Build a stage from what Triton hands to ``initialize``.

    Args:
        build: the stage's class; takes the version folder.
        contract: what config.pbtxt must say.
        args: model_config (JSON), model_repository (the model's folder), model_version.

    Raises:
        TritonModelException: the release cannot be loaded; Triton puts the text into its answer and its log.
    """
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {contract.name} %(levelname)s %(message)s")
    try:
        verify_contract(json.loads(args["model_config"]), contract)
        return build(Path(args["model_repository"]) / args["model_version"])
    except ConchError as error:
        raise pb_utils.TritonModelException(str(error)) from None


def verify_contract(config: Mapping[str, object], contract: ModelContract) -> None:
    """Compare a model's config with the contract.

    Raises:
        RepositoryError: tensors differ; names the first that does.
    """
    for section, specs in (("input", contract.inputs), ("output", contract.outputs)):
        declared = {t["name"]: (t["data_type"], [int(d) for d in t["dims"]]) for t in config[section]}  # type: ignore[attr-defined]
        expected = {s.name: (s.dtype.triton_name, list(s.dims)) for s in specs}
        for name in sorted({*declared, *expected}):
            if declared.get(name) != expected.get(name):
                raise RepositoryError(
                    f"{section} {name} of {contract.name} must be {expected.get(name)}, "
                    f"config.pbtxt says {declared.get(name)}",
                    mend="Build the repository again with this version of Conch",
                )
