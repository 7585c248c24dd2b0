"""Writes the tokenizer folder of a release, and tries it out before anybody relies on it."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from conch.build import gguf_tokenizer, huggingface_tokenizer
from conch.build.cache import Cache, CacheEntry
from conch.build.gguf import read_gguf
from conch.build.gguf_tokenizer import ConvertedTokenizer, convert_gguf_tokenizer
from conch.build.huggingface_tokenizer import read_huggingface_tokenizer
from conch.build.progress import Progress
from conch.build.sources import Checkpoint, Format
from conch.errors import BuildError, ConchError
from conch.repository.artifacts import GGUF_FILE
from conch.text.chat_template import ChatTemplate, Message
from conch.text.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE
from conch.text.token_bytes import TokenBytes

TOKENIZERS = "tokenizers"
_SAMPLE = "Hello, how are you?"


def tokenizer_entry(checkpoint: Checkpoint, cache: Cache, progress: Progress) -> CacheEntry:
    """The tokenizer folder of a checkpoint. The cache must be locked.

    A chat that OpenVINO GenAI's own reading of a GGUF file renders or encodes otherwise is reported, not refused: its
    template engine and its tokenizer know less than the libraries that models are made with.

    Raises:
        BuildError: the checkpoint's tokenizer or chat template cannot be used.
    """

    def make(files_dir: Path) -> dict[str, str]:
        converted = read_tokenizer(checkpoint)
        write_tokenizer(converted, files_dir)
        prompt = check_tokenizer(converted, files_dir)
        if checkpoint.format is Format.GGUF:
            progress.hint("comparing with OpenVINO GenAI's tokenizer")
            for difference in openvino_differences(checkpoint.path / GGUF_FILE, converted.tokenizer, prompt):
                progress.say(f"note: {difference}")
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


def check_tokenizer(converted: ConvertedTokenizer, folder: Path) -> str:
    """Try out a tokenizer folder with the code that serves it.

    Returns:
        The prompt that the chat template makes of a simple chat; its message where there is no template.

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
    return rendered


def openvino_differences(gguf: Path, tokenizer: Tokenizer, prompt: str) -> list[str]:
    """Where OpenVINO GenAI's own tokenizer of a GGUF file differs on a simple chat, as sentences.

    Args:
        gguf: the file.
        tokenizer: ours.
        prompt: what check_tokenizer returned.
    """
    try:
        import openvino_genai
    except ImportError:
        return ["openvino-genai is not installed here, so its tokenizer was not compared"]
    try:
        theirs = openvino_genai.Tokenizer(str(gguf))
        ids = theirs.encode(prompt, add_special_tokens=False).input_ids.data[0].tolist()
        chat = [{"role": "user", "content": _SAMPLE}]
        rendered = prompt if prompt == _SAMPLE else theirs.apply_chat_template(chat, add_generation_prompt=True)
    except RuntimeError as error:
        return [f"OpenVINO GenAI cannot read the tokenizer of this file: {' '.join(str(error).split())[-200:]}"]
    found = []
    if ids != tokenizer.encode(prompt, add_special_tokens=False).ids:
        found.append("OpenVINO GenAI's tokenizer gives other token ids for a simple chat than the one in the release")
    if rendered != prompt:
        found.append(f"OpenVINO GenAI renders a simple chat otherwise: {rendered!r:.200}")
    return found


def _key(checkpoint: Checkpoint) -> str:
    """Changes with the checkpoint, the code that converts, and the library that does."""
    digest = hashlib.sha256(checkpoint.sha256.encode())
    for module in (gguf_tokenizer, huggingface_tokenizer):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(Path(__file__).read_bytes())
    digest.update(version("tokenizers").encode())
    return digest.hexdigest()
