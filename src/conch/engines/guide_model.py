"""A model of nothing with the vocabulary of a real one: what a guide is compiled for.

OpenVINO GenAI compiles a guide when a pipeline computes the first token of a request, for the vocabulary of that
pipeline's tokenizer. This module writes a GGUF file of a llama with one layer and no weights worth the name, whose
tokens are the bytes that each id adds to a text, as the detokenizer knows them. Ids that add nothing (special tokens)
get bytes that no text has, so that no guide lets them in.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import RepositoryError
from conch.repository.settings import SETTINGS_FILE, ReleaseSettings
from conch.text.token_bytes import TokenBytes, byte_level_text

_HIDDEN = 32  # of every size: the least that attention takes
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9  # value types of GGUF
_F32, _F16 = 0, 1  # tensor types of GGUF
_ALIGNMENT = 32
_NORMAL, _CONTROL = 1, 3  # token types of GGUF
_NO_TEXT = b"\xff"  # in no UTF-8, so in no text that a guide describes


@dataclass(frozen=True)
class GuideVocabulary:
    """What each token id adds to a text, for guides.

    Attributes:
        pieces: bytes by id; b"" for ids that add nothing.
        end_id: an id that ends an answer.
    """

    pieces: tuple[bytes, ...]
    end_id: int

    @classmethod
    def of_release(cls, engine_dir: Path) -> GuideVocabulary | None:
        """Of the release that an engine's folder is part of; None for an engine by itself.

        Raises:
            RepositoryError: the release is damaged.
        """
        folder = engine_dir.parent
        if not (folder / SETTINGS_FILE).exists():
            return None
        limits = ReleaseSettings.read(folder).limits
        pieces = TokenBytes.load(folder, limits.vocab_size).pieces[: limits.vocab_size]
        return cls(pieces, limits.eos_token_ids[0])

    def with_sentinel(self) -> GuideVocabulary:
        """The same with one more id in front, 0, which no guide lets in, so that all others are one higher."""
        return GuideVocabulary((b"", *self.pieces), self.end_id + 1)

    def open_tokenizer(self) -> Any:
        """An openvino_genai.Tokenizer of it: for guides alone, it cannot encode.

        Raises:
            RepositoryError: the disk is full, or OpenVINO cannot take the vocabulary.
        """
        import openvino_genai

        return self._open(openvino_genai.Tokenizer)

    def open_pipeline(self, tokenizer: Any) -> Any:
        """An openvino_genai.ContinuousBatchingPipeline that answers at random, guided by ``tokenizer``.

        Raises:
            RepositoryError: as of open_tokenizer.
        """
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = 8
        scheduler.max_num_seqs = 1
        properties = {"INFERENCE_NUM_THREADS": 1}
        return self._open(
            lambda path: openvino_genai.ContinuousBatchingPipeline(path, tokenizer, scheduler, "CPU", **properties)
        )

    def _open(self, opener: Any) -> Any:
        try:
            with tempfile.TemporaryDirectory(prefix="conch-guides-") as folder:
                path = Path(folder) / "model.gguf"
                self.write_model(path)
                return opener(str(path))
        except (OSError, RuntimeError) as error:
            raise RepositoryError(f"the vocabulary for guides cannot be loaded: {error}") from None

    def write_model(self, path: Path) -> None:
        """Write the GGUF file: a few MB, in a tenth of a second."""
        tensors = list(_tensors(len(self.pieces)))
        keys = _keys(_token_texts(self.pieces), self.end_id)
        head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
        offset = 0
        for name, dims, kind in tensors:
            head += _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
            size = 2 if kind == _F16 else 4
            for dim in dims:
                size *= dim
            offset += _aligned(size)
        with path.open("wb") as file:
            file.write(head)
            file.truncate(_aligned(len(head)) + offset)  # weights of zero


def _token_texts(pieces: Sequence[bytes]) -> list[str]:
    """Tokens as a byte-level vocabulary writes them, all different.

    Ids with the same bytes are rare (a byte and a character); all but the first are left out of every guide.
    """
    texts: dict[str, None] = {}
    for index, piece in enumerate(pieces):
        text = byte_level_text(piece)
        if not text or text in texts:
            text = byte_level_text(_NO_TEXT + str(index).encode())
        texts[text] = None
    return list(texts)


def _tensors(vocab_size: int) -> Iterable[tuple[str, tuple[int, ...], int]]:
    yield "token_embd.weight", (_HIDDEN, vocab_size), _F16
    yield "output_norm.weight", (_HIDDEN,), _F32
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        yield f"blk.0.{name}.weight", (_HIDDEN, _HIDDEN), _F16
    for name in ("attn_norm", "ffn_norm"):
        yield f"blk.0.{name}.weight", (_HIDDEN,), _F32


def _keys(tokens: Sequence[str], end_id: int) -> list[bytes]:
    numbers = {
        "general.file_type": 0, "llama.block_count": 1, "llama.context_length": 256, "llama.embedding_length": _HIDDEN,
        "llama.feed_forward_length": _HIDDEN, "llama.attention.head_count": 1, "llama.attention.head_count_kv": 1,
        "llama.rope.dimension_count": _HIDDEN, "llama.vocab_size": len(tokens),
    }  # fmt: skip
    # One control token at least: without any, openvino_tokenizers makes a graph that does not compile.
    types = [struct.pack("<i", _CONTROL if index == end_id else _NORMAL) for index in range(len(tokens))]
    ids = ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id")
    return [
        _key("general.architecture", _STRING, _string("llama")),
        *(_key(name, _UINT32, struct.pack("<I", value)) for name, value in numbers.items()),
        _key("llama.rope.freq_base", _FLOAT32, struct.pack("<f", 10_000)),
        _key("llama.attention.layer_norm_rms_epsilon", _FLOAT32, struct.pack("<f", 1e-5)),
        _key("tokenizer.ggml.model", _STRING, _string("gpt2")),
        _key("tokenizer.ggml.pre", _STRING, _string("gpt-2")),
        _array("tokenizer.ggml.tokens", _STRING, [_string(token) for token in tokens]),
        _array("tokenizer.ggml.token_type", _INT32, types),
        _array("tokenizer.ggml.merges", _STRING, [_string("h e")]),  # nothing is encoded, but there must be one
        *(_key(f"tokenizer.ggml.{name}", _UINT32, struct.pack("<I", end_id)) for name in ids),
    ]


def _key(name: str, kind: int, data: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + data


def _array(name: str, kind: int, items: list[bytes]) -> bytes:
    return _key(name, _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
