"""Prompts to token ids, with the tokenizer that the build put into the repository."""

from __future__ import annotations

import math
from pathlib import Path

from tokenizers import Tokenizer

from conch.contract import MESSAGES, TEXT_INPUT
from conch.errors import InvalidArgumentError, RepositoryError
from conch.text import chat_template
from conch.text.chat_template import ChatTemplate, parse_messages
from conch.text.files import TOKENIZER_FILE, TokenizerMeta
from conch.text.token_bytes import TokenBytes


class PromptTokenizer:
    """Tokenizer of one release.

    Args:
        folder: a tokenizer folder (conch.text.files).
        max_input_len: most tokens of a prompt.

    Raises:
        RepositoryError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, max_input_len: int) -> None:
        self.meta = TokenizerMeta.read(folder)
        self.max_input_len = max_input_len
        path = folder / TOKENIZER_FILE
        try:
            self._tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception for a malformed file
            raise RepositoryError(f"{path} cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = ChatTemplate.load(folder, self.meta)
        self._longest_chars = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))
        TokenBytes.load(folder, self.meta.vocab_size)  # a decoder that is not known here fails the load

    def encode_text(self, data: bytes, field: str = TEXT_INPUT.name) -> list[int]:
        """Token ids of a plain prompt.

        Args:
            data: UTF-8.
            field: name for messages.

        Raises:
            InvalidArgumentError: empty, not UTF-8, or longer than max_input_len tokens.
        """
        return self._encode(_decode_utf8(data, field), field, add_special_tokens=self.meta.add_special_tokens)

    def encode_messages(self, data: bytes) -> list[int]:
        """Token ids of a chat, a JSON list of {role, content} in UTF-8.

        Raises:
            InvalidArgumentError: as encode_text, and for messages that are malformed or refused by the template.
            UnsupportedError: the model has no chat template.
        """
        messages = parse_messages(_decode_utf8(data, MESSAGES.name))
        prompt = chat_template.require(self._template).render(messages)
        # The template writes BOS where the model wants it.
        return self._encode(prompt, MESSAGES.name, add_special_tokens=False)

    def _encode(self, text: str, field: str, *, add_special_tokens: bool) -> list[int]:
        if not text:
            raise InvalidArgumentError(f"{field} must not be empty")
        # No token stands for more than _longest_chars (times 3: a normalizer may shorten), so a huge text need not be
        # tokenized to be refused.
        at_least = math.ceil(len(text) / (3 * self._longest_chars))
        if at_least > self.max_input_len:
            raise InvalidArgumentError(self._too_long(field, f"at least {at_least}"))
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        if not ids:
            raise InvalidArgumentError(f"{field} must have at least one token, got none")
        if len(ids) > self.max_input_len:
            raise InvalidArgumentError(self._too_long(field, str(len(ids))))
        return ids

    def _too_long(self, field: str, tokens: str) -> str:
        return f"{field} must have at most {self.max_input_len} tokens, got {tokens}"


def _decode_utf8(data: bytes, field: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{field} must be valid UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from None
