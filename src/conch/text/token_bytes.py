"""What each token id adds to a text, as bytes: the ground that incremental decoding and stop words stand on.

The decoders of the three tokenizer families in use turn each token into bytes by itself: byte-level BPE maps
characters to bytes, SentencePiece with byte fallback writes ``<0xE4>`` for a byte and U+2581 for a space, WordPiece
joins words with a space. Only two things reach across tokens: a character's UTF-8 bytes may be split between them,
and the first token of a text may lose the space in front of it. So a table of bytes, and one flag, are enough to
decode any chunk exactly, in time proportional to its length.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import RepositoryError
from conch.text.files import TOKENIZER_FILE

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_METASPACE = "\u2581"


@dataclass(frozen=True)
class TokenBytes:
    """Bytes of every token id.

    Attributes:
        pieces: pieces[id] is what the token adds to a text that has begun; b"" for special tokens, which add nothing.
        strip_first: the first text-bearing token of a text loses one leading space.
    """

    pieces: tuple[bytes, ...]
    strip_first: bool

    def __len__(self) -> int:
        return len(self.pieces)

    @classmethod
    def load(cls, folder: Path, vocab_size: int) -> TokenBytes:
        """Read the table from a tokenizer folder.

        Args:
            folder: holds TOKENIZER_FILE.
            vocab_size: ids that the model knows; ids without a token add nothing.

        Raises:
            RepositoryError: the file is missing or its decoder is of a kind that is not known here.
        """
        path = folder / TOKENIZER_FILE
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), vocab_size)
        except (OSError, ValueError) as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:
            raise RepositoryError(f"{path} is no tokenizer.json: {type(error).__name__} {error}") from None

    @classmethod
    def from_json(cls, data: dict[str, Any], vocab_size: int) -> TokenBytes:
        """As ``load``, from the parsed tokenizer.json."""
        decoder = _Decoder.parse(data.get("decoder"))
        vocabulary = data["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: a list of [token, score]
            by_id = {index: entry[0] for index, entry in enumerate(vocabulary)}
        else:
            by_id = {index: token for token, index in vocabulary.items()}
        special = set()
        for added in data.get("added_tokens") or ():
            by_id[added["id"]] = added["content"]
            if added["special"]:
                special.add(added["id"])
        size = max(vocab_size, max(by_id, default=0) + 1)
        pieces = tuple(b"" if i in special or i not in by_id else decoder.piece(by_id[i]) for i in range(size))
        return cls(pieces=pieces, strip_first=decoder.strip_first)


@dataclass(frozen=True)
class _Decoder:
    """The decoder section of a tokenizer.json, as far as it touches single tokens."""

    kind: str  # byte_level, sentencepiece or wordpiece
    byte_fallback: bool = False
    strip_first: bool = False
    prefix: str = "##"
    cleanup: bool = True

    @classmethod
    def parse(cls, decoder: dict[str, Any] | None) -> _Decoder:
        kind = (decoder or {}).get("type")
        if decoder and kind == "ByteLevel":
            return cls("byte_level")
        if decoder and kind == "WordPiece":
            return cls("wordpiece", strip_first=True, prefix=decoder["prefix"], cleanup=decoder["cleanup"])
        if decoder and kind == "Metaspace":
            _require_metaspace(decoder.get("replacement"))
            return cls("sentencepiece", strip_first=decoder.get("prepend_scheme", "always") != "never")
        if decoder and kind == "Sequence":
            return cls._parse_sequence(decoder["decoders"])
        raise RepositoryError(f"decoder of {TOKENIZER_FILE} must be one of ByteLevel, Metaspace, WordPiece or a "
                              f"Sequence of Replace, ByteFallback, Fuse, Strip and Metaspace, got {kind}")  # fmt: skip

    @classmethod
    def _parse_sequence(cls, parts: list[dict[str, Any]]) -> _Decoder:
        if [p["type"] for p in parts] == ["ByteLevel"]:
            return cls("byte_level")
        strip_first = byte_fallback = False
        for part in parts:
            kind = part["type"]
            if kind == "ByteFallback":
                byte_fallback = True
            elif kind == "Replace" and part["pattern"] == {"String": _METASPACE} and part["content"] == " ":
                continue
            elif kind == "Strip" and (part["content"], part["start"], part["stop"]) == (" ", 1, 0):
                strip_first = True
            elif kind == "Metaspace":
                _require_metaspace(part.get("replacement"))
                strip_first = strip_first or part.get("prepend_scheme", "always") != "never"
            elif kind != "Fuse":
                raise RepositoryError(f"decoder of {TOKENIZER_FILE} has a step that is not known here: {part}")
        return cls("sentencepiece", byte_fallback=byte_fallback, strip_first=strip_first)

    def piece(self, token: str) -> bytes:
        """Bytes that ``token`` adds in the middle of a text."""
        if self.kind == "byte_level":
            try:
                return bytes(_BYTE_OF_CHAR[c] for c in token)
            except KeyError:  # an added token: written as it is
                return token.encode()
        if self.kind == "wordpiece":
            text = token[len(self.prefix) :] if token.startswith(self.prefix) else f" {token}"
            return (_clean_up(text) if self.cleanup else text).encode()
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token.replace(_METASPACE, " ").encode()


def _require_metaspace(replacement: str | None) -> None:
    if replacement != _METASPACE:
        raise RepositoryError(f"replacement of the Metaspace decoder must be U+2581, got {replacement!r}")


def _clean_up(text: str) -> str:
    # The clean-up of the WordPiece decoder of the tokenizers library, which also works on one token at a time:
    # https://docs.rs/tokenizers/latest/src/tokenizers/decoders/wordpiece.rs.html
    for written, meant in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
        (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(written, meant)
    return text


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's map from characters to bytes: printable Latin-1 stands for itself, the rest moves to U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(b): b for b in plain}
    moved = (b for b in range(256) if b not in plain)
    alphabet.update({chr(0x100 + n): b for n, b in enumerate(moved)})
    return alphabet


_BYTE_OF_CHAR = _byte_alphabet()
_CHAR_OF_BYTE = {byte: char for char, byte in _BYTE_OF_CHAR.items()}


def byte_level_text(piece: bytes) -> str:
    """Bytes as a byte-level vocabulary writes them."""
    return "".join(_CHAR_OF_BYTE[byte] for byte in piece)
