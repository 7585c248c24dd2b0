"""The GPUs that the planner knows (gpus.json), and what follows from a compute capability."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from importlib import resources

from conch.errors import InvalidArgumentError
from conch.spec_trtllm import LEAST_CAPABILITY, LOWEST_SM

MIB = 1 << 20
GIB = 1 << 30
# FP8 from Ada on; NVFP4 on Blackwell (docs/memory_planner.md).
FP8_CAPABILITY = divmod(LOWEST_SM["fp8"], 10)
NVFP4_CAPABILITY = divmod(LOWEST_SM["nvfp4"], 10)


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as in gpus.json, ``H100-80GB``.
        memory_bytes: what nvidia-smi shows as its memory.
        compute_capability: (major, minor).
    """

    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]

    @property
    def has_fp8(self) -> bool:
        """Whether it multiplies FP8 matrices."""
        return self.compute_capability >= FP8_CAPABILITY

    @property
    def has_nvfp4(self) -> bool:
        """Whether it multiplies NVFP4 matrices."""
        return self.compute_capability >= NVFP4_CAPABILITY

    @property
    def runs_tensorrt_llm(self) -> bool:
        """Whether TensorRT-LLM 1.2 supports it at all."""
        return self.compute_capability >= LEAST_CAPABILITY

    def with_memory(self, memory_bytes: int) -> Gpu:
        """The same card with another memory: a MIG slice, or one that something else shares."""
        return replace(self, memory_bytes=memory_bytes)


@functools.cache
def known_gpus() -> tuple[Gpu, ...]:
    """Every GPU of gpus.json, in its order."""
    data = json.loads(resources.files(__package__).joinpath("gpus.json").read_text(encoding="utf-8"))
    return tuple(_gpu(entry) for entry in data["gpus"])


def find_gpu(name: str) -> Gpu:
    """A GPU by its name; case, and ``_`` or spaces for ``-``, do not matter.

    Raises:
        InvalidArgumentError: no such GPU; names those there are.
    """
    wanted = name.strip().casefold().replace("_", "-").replace(" ", "-")
    for gpu in known_gpus():
        if gpu.name.casefold() == wanted:
            return gpu
    names = ", ".join(gpu.name for gpu in known_gpus())
    raise InvalidArgumentError(f"gpu must be one of {names}, got {name!r}")


def _gpu(entry: dict[str, str | int]) -> Gpu:
    major, minor = str(entry["compute_capability"]).split(".")
    return Gpu(str(entry["name"]), int(entry["memory_mib"]) * MIB, (int(major), int(minor)))
