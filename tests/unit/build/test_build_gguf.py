"""Reading GGUF headers: whole ones, and every way of being damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from small_models import gguf_bytes, small_metadata

from conch.build.gguf import read_gguf
from conch.errors import BuildError


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


def test_reads_what_was_written(tmp_path: Path) -> None:
    metadata = small_metadata(general__x=1.5, general__flag=True, general__floats=[0.5, -2.0])
    header = read_gguf(written(tmp_path, gguf_bytes(metadata, {"a.weight": 3, "b.weight": 99})))
    assert header.metadata == metadata
    assert header.tensors == {"a.weight": "Q4_1", "b.weight": "type 99"}
    assert header.architecture == "llama"


def test_every_cut_is_refused(tmp_path: Path) -> None:
    data = gguf_bytes({"general.architecture": "llama", "a": [1, 2], "b": ["x", "y"], "c": True}, {"t": 0})
    for length in range(len(data)):
        with pytest.raises(BuildError, match="not a usable GGUF file"):
            read_gguf(written(tmp_path, data[:length]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04" + bytes(60), "does not begin with GGUF"),
        (gguf_bytes({}, version=1), "version must be 2 or 3, got 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "it says that it has"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "it says that it has"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + bytes(20), "it says that an entry has"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 1 << 61), "entry has"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IQ", 77, 0), "value type 77 is not known"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1), "array of value type 9"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (struct.pack("<Q", 1) + b"k" + struct.pack("<II", 4, 1)),
            "twice",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(BuildError, match=reason):
        read_gguf(written(tmp_path, data))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"x\.gguf cannot be read: No such file"):
        read_gguf(tmp_path / "x.gguf")
