"""Writes the tokenizer folder of a release, and tries it out before anybody relies on it."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from conch.build import gguf_tokenizer, huggingface_tokenizer
from conch.build.cache import Cache, CacheEntry
from conch.build.gguf import read_gguf
from conch.build.gguf_tokenizer import ConvertedTokenizer, convert_gguf_tokenizer
from conch.build.huggingface_tokenizer import read_huggingface_tokenizer
from conch.build.sources import Checkpoint, Format
from conch.errors import BuildError, ConchError
from conch.repository.artifacts import GGUF_FILE
from conch.text.chat_template import ChatTemplate, Message
from conch.text.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from conch.text.token_bytes import TokenBytes

TOKENIZERS = "tokenizers"
_SAMPLE = "Hello, how are you?"


def tokenizer_entry(checkpoint: Checkpoint, cache: Cache) -> CacheEntry:
    """The tokenizer folder of a checkpoint. The cache must be locked.

    Raises:
        BuildError: the checkpoint's tokenizer or chat template cannot be used.
    """

    def make(files_dir: Path) -> dict[str, str]:
        converted = read_tokenizer(checkpoint)
        write_tokenizer(converted, files_dir)
        check_tokenizer(converted, files_dir)
        return {"checkpoint_sha256": checkpoint.sha256}

    return cache.get(TOKENIZERS, _key(checkpoint), make)


def read_tokenizer(checkpoint: Checkpoint) -> ConvertedTokenizer:
    """Read the tokenizer of a checkpoint of any format.

    Raises:
        BuildError: it cannot be used.
    """
    if checkpoint.format is Format.GGUF:
        return convert_gguf_tokenizer(read_gguf(checkpoint.path / GGUF_FILE))
    return read_huggingface_tokenizer(checkpoint.path)


def write_tokenizer(converted: ConvertedTokenizer, folder: Path) -> None:
    """Write the three files of a tokenizer folder (conch.text.files)."""
    (folder / TOKENIZER_FILE).write_text(converted.tokenizer.to_str(), encoding="utf-8")
    if converted.chat_template is not None:
        (folder / CHAT_TEMPLATE_FILE).write_text(converted.chat_template, encoding="utf-8")
    converted.meta.write(folder)


def check_tokenizer(converted: ConvertedTokenizer, folder: Path) -> None:
    """Try out a tokenizer folder with the code that serves it.

    Raises:
        BuildError: decoding is of a kind that cannot be streamed, a text does not survive, or a simple chat cannot be
            rendered.
    """
    tokenizer = converted.tokenizer
    ids = tokenizer.encode(_SAMPLE, add_special_tokens=False).ids
    if tokenizer.decode(ids).strip() != _SAMPLE:
        raise BuildError(f"the tokenizer must give {_SAMPLE!r} back, got {tokenizer.decode(ids)!r}")
    try:
        TokenBytes.load(folder, converted.meta.vocab_size)
        template = ChatTemplate.load(folder, converted.meta)
        rendered = _SAMPLE if template is None else template.render([Message("user", _SAMPLE)])
    except ConchError as error:
        raise BuildError(f"the model's tokenizer cannot be served: {error.message}") from None
    if _SAMPLE not in rendered:
        raise BuildError(f"the chat template must put a user's message into the prompt, got {rendered!r:.200}")


def _key(checkpoint: Checkpoint) -> str:
    """Changes with the checkpoint, the code that converts, and the library that does."""
    digest = hashlib.sha256(checkpoint.sha256.encode())
    for module in (gguf_tokenizer, huggingface_tokenizer):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    digest.update(version("tokenizers").encode())
    return digest.hexdigest()
