"""``release.json``: what the stages of a release must know beside their own files; one in every version folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from conch.errors import RepositoryError
from conch.sampling import Limits
from conch.spec import ModelSpec, Runtime

SETTINGS_FILE = "release.json"


@dataclass(frozen=True)
class ReleaseSettings:
    """What was built.

    Attributes:
        spec: the model spec, with every default.
        limits: what the spec and the model allow together.
    """

    spec: ModelSpec
    limits: Limits

    def write(self, folder: Path) -> None:
        """Write SETTINGS_FILE into ``folder``."""
        data = {"spec": self.spec.model_dump(mode="json"), "limits": asdict(self.limits)}
        (folder / SETTINGS_FILE).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ReleaseSettings:
        """Read SETTINGS_FILE of a version folder.

        Raises:
            RepositoryError: it is missing, or was written by another version of Conch.
        """
        path = folder / SETTINGS_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            limits = {
                **data["limits"], "eos_token_ids": tuple(data["limits"]["eos_token_ids"]),
                "runtime": Runtime(data["limits"]["runtime"]),
            }  # fmt: skip
            return cls(ModelSpec.model_validate(data["spec"]), Limits(**limits))
        except (OSError, ValueError, TypeError, KeyError, ValidationError) as error:
            raise RepositoryError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
