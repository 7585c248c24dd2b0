"""Reads what a GGUF file says about itself: its key-value pairs and the names and types of its tensors, no weights.

The `gguf` package keeps an array for every string, and takes seconds for a vocabulary of 49,152; this takes
a tenth of one, and every length is checked against the file, which comes from a stranger.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from conch.errors import BuildError

MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 30: "BF16",
}  # fmt: skip
_MAX_DIMS = 8


@dataclass(frozen=True)
class GgufHeader:
    """What stands before the weights.

    Attributes:
        metadata: key -> number, bool, str or list of them. Text that is not UTF-8 has surrogate escapes.
        tensors: tensor name -> name of its type (``Q4_1``; ``type 99`` for one that is not known here).
    """

    metadata: dict[str, Any]
    tensors: dict[str, str]

    @property
    def architecture(self) -> str:
        """``llama``, ``qwen2``, ...; empty where the file does not say."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of a GGUF file (version 2 or 3, little endian).

    Raises:
        BuildError: cannot be read, not GGUF, or damaged.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).read()
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}") from None
    except (_DamagedError, struct.error) as error:
        raise BuildError(f"{path} is not a usable GGUF file: {error}", mend="Fetch or copy it again") from None


class _DamagedError(ValueError):
    pass


class _Reader:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes

    def read(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise _DamagedError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise _DamagedError(f"its version must be 2 or 3, got {version}")
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._plausible(num_keys, 13)):
            key = self._string()
            if key in metadata:
                raise _DamagedError(f"key {key} is there twice")
            metadata[key] = self._value(self._number("<I"))
        tensors = dict(self._tensor() for _ in range(self._plausible(num_tensors, 24)))
        return GgufHeader(metadata, tensors)

    def _tensor(self) -> tuple[str, str]:
        name = self._string()
        num_dims = self._number("<I")
        if num_dims > _MAX_DIMS:
            raise _DamagedError(f"tensor {name} has {num_dims} dimensions")
        self._take(8 * num_dims)
        kind = self._number("<I")
        self._take(8)  # where its weights are
        return name, _TENSOR_TYPES.get(kind, f"type {kind}")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise _DamagedError(f"value type {kind} is not known")
        item, count = self._number("<I"), self._number("<Q")
        if item == _STRING:
            return [self._string() for _ in range(self._plausible(count, 8))]
        if item not in _SCALARS:
            raise _DamagedError(f"array of value type {item} is not known")
        code = _SCALARS[item][1]
        data = self._take(count * struct.calcsize("<" + code))
        return list(struct.unpack(f"<{count}{code}", data))

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8", "surrogateescape")

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _plausible(self, count: int, least_bytes: int) -> int:
        """``count``, if that many items of at least so many bytes fit into the file."""
        if count * least_bytes > self._size:
            raise _DamagedError(f"it says that it has {count} entries, and is {self._size} bytes long")
        return count

    def _take(self, count: int) -> bytes:
        if count > self._size:  # before memory is set aside for it
            raise _DamagedError(f"it says that an entry has {count} bytes, and is {self._size} bytes long")
        data = self._file.read(count)
        if len(data) != count:
            raise _DamagedError("it ends too early")
        return data
