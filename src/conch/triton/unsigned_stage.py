"""UINT32 in, INT32 out: the step in front of the others for clients that know no signed integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from conch.contract import UNSIGNED
from conch.errors import InvalidArgumentError
from conch.triton import codec
from conch.triton.guard import run_each

_MOST = int(np.iinfo(np.int32).max)


class UnsignedStage:
    """The step; it keeps nothing.

    Args:
        folder: version folder in the repository; not read.
    """

    def __init__(self, folder: Path) -> None:
        pass

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Convert each request.

        Returns:
            One response per request: its inputs under their own names; those that are UINT32 as INT32.
        """
        return run_each(requests, self._one)

    def _one(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        codec.refuse_unknown_parameters(request, UNSIGNED)
        arrays = codec.read_arrays(request)
        for name, array in arrays.items():
            if array.dtype == np.uint32:
                if array.size and array.max() > _MOST:
                    raise InvalidArgumentError(f"{name} must be <= {_MOST}, got {array.max()}")
                arrays[name] = array.astype(np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])
