"""Writes small GGUF files and Hugging Face folders: real formats, a handful of tokens, weights of a few bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

SPECIALS = ("<|end|>", "<|user|>")
CHAT_TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"


def byte_alphabet() -> list[str]:
    """GPT-2's 256 characters that stand for bytes, in the order of the bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte if byte in plain else 256 + others.index(byte)) for byte in range(256)]


def small_metadata(**changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level model with three merges; ``changes`` by key, with ``__`` for a dot; None removes one."""
    tokens = [*SPECIALS, *byte_alphabet(), "he", "hel", "12"]
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.context_length": 128,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.merges": ["h e", "he l", "1 2"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    for key, value in changes.items():
        metadata[key.replace("__", ".")] = value
    return {key: value for key, value in metadata.items() if value is not None}


def gguf_bytes(metadata: dict[str, Any], tensors: dict[str, int] | None = None, version: int = 3) -> bytes:
    """A GGUF file without weights.

    Args:
        metadata: key -> str, bool, int, float, or a list of str, int or float.
        tensors: name -> type number, one dimension each.
        version: of the format.
    """
    tensors = tensors or {}
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    for name, kind in tensors.items():
        parts += [_string(name), struct.pack("<IQIQ", 1, 32, kind, 0)]
    return b"".join(parts)


def write_small_gguf(path: Path, **changes: Any) -> Path:
    """Write small_metadata(**changes) as a file."""
    path.write_bytes(gguf_bytes(small_metadata(**changes)))
    return path


def write_small_huggingface(folder: Path, tokenizer_json: str) -> Path:
    """Write a checkpoint folder: config, one tensor, a tokenizer."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama", "vocab_size": 261, "max_position_embeddings": 128, "eos_token_id": 0, "hidden_size": 64,
        "intermediate_size": 96,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind, code = {str: (8, ""), int: (5, "i"), float: (6, "f")}[type(value[0])]
        items = b"".join(_string(v) if kind == 8 else struct.pack(f"<{code}", v) for v in value)
        return struct.pack("<IIQ", 9, kind, len(value)) + items
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack("<If", 6, value)
