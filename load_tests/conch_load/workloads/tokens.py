"""Counting and making text by tokens, with the tokenizer of the model that is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from conch.contract import TOKENIZER
from conch.errors import ConchError
from conch.repository.pbtxt import CONFIG_FILE, pinned_version
from conch.repository.settings import SETTINGS_FILE, ReleaseSettings
from conch.text.files import META_FILE, TOKENIZER_FILE
from conch.text.tokenizer import PromptTokenizer
from conch_load.workloads.base import WorkloadError

_NO_LIMIT = 1 << 30
_TRIES = 200
SALT_TOKENS = 4  # at the front of a text: one block that differs is enough, all that follow it differ with it
_SPACES = ("Ġ", "▁")  # how byte-level BPE and SentencePiece write a space in their vocabularies


class Tokens:
    """A tokenizer.

    Args:
        path: tokenizer.json, or a folder that holds it. In a folder of Conch (conch.text.files) the chat template and
            the rule for special tokens are known too.

    Raises:
        WorkloadError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / TOKENIZER_FILE if path.is_dir() else path
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for whatever is wrong
            raise WorkloadError(f"tokenizer {file} cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._full: PromptTokenizer | None = None
        if (file.parent / META_FILE).is_file():
            try:
                self._full = PromptTokenizer(file.parent, _NO_LIMIT)
            except ConchError as error:
                raise WorkloadError(str(error)) from None
        self._words, self._joint = _words(self._tokenizer)
        self._specials = self.count_prompt(self._joint + self._words[0]) - 1

    @property
    def knows_template(self) -> bool:
        """Whether :meth:`count_messages` is exact."""
        return self._full is not None

    def count_prompt(self, text: str) -> int:
        """Tokens of a plain prompt, with the special ones that the server adds."""
        if self._full is not None:
            return len(self._full.encode_text(text.encode()))
        return len(self._tokenizer.encode(text).ids)

    def count_messages(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of a chat. Without the template (a bare tokenizer.json): of the contents alone.

        Raises:
            WorkloadError: the model has no chat template, or it refuses the messages.
        """
        if self._full is None:
            return sum(self.count_answer(message["content"]) for message in messages)
        try:
            return len(self._full.encode_messages(json.dumps(list(messages)).encode()))
        except ConchError as error:
            raise WorkloadError(str(error)) from None

    def count_answer(self, text: str) -> int:
        """Tokens of an answer's text: no special ones added."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special ones left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def words(self, count: int, seed: str, salt: str = "") -> str:
        """Random words of together ``count`` tokens as a prompt of its own (with its special tokens).

        Args:
            count: how many.
            seed: of the words.
            salt: of the first SALT_TOKENS of them as well; the others do not depend on it. Empty: there are no such.

        Raises:
            WorkloadError: there is no such text.
        """
        rng, first = random.Random(seed), random.Random(f"{salt}/{seed}")
        wanted = count - self._specials
        for _ in range(_TRIES):
            if wanted < 1:
                break
            text = self._drawn(wanted, rng, first if salt else None)
            if self.count_prompt(text) == count:
                return text
        raise WorkloadError(f"no prompt of {count} tokens can be made with {self.path}")

    def plain_words(self, count: int, seed: str, salt: str = "") -> str:
        """Random words of about ``count`` tokens, to stand within a longer text; see :meth:`words`."""
        return self._drawn(count, random.Random(seed), random.Random(f"{salt}/{seed}") if salt else None)

    def message(self, count: int, seed: str, salt: str = "") -> str:
        """The same without a space in front, for a message of its own. The salt begins after the first word: which word
        it is decides how many tokens it has without its space."""
        first = self.plain_words(1, f"{seed}/first").strip()
        return first + self.plain_words(count - 1, seed, salt)

    def _drawn(self, count: int, rng: random.Random, first: random.Random | None) -> str:
        words = rng.choices(self._words, k=count)
        if first is not None:
            head = first.choices(self._words, k=min(SALT_TOKENS, count))
            words[: len(head)] = head
        return "".join(self._joint + word for word in words)


def _words(tokenizer: Tokenizer) -> tuple[list[str], str]:
    """Words of one token each, and what stands in front of each of them."""
    vocabulary = tokenizer.get_vocab()
    for mark in _SPACES:
        found = sorted(t[1:] for t in vocabulary if t.startswith(mark) and t[1:].isascii() and t[1:].isalpha())
        if len(found) >= 100:
            return found, " "
    letters = sorted(t for t in vocabulary if len(t) == 1 and t.isascii() and t.isalpha())
    if not letters:
        raise WorkloadError("the tokenizer has neither words nor letters of one token, so no prompt can be made")
    return letters, ""


def release_of(repository: Path) -> tuple[Path, ReleaseSettings] | None:
    """The tokenizer folder and the settings of the release that a repository serves; None where there is none.

    Raises:
        WorkloadError: there is one, and it cannot be read.
    """
    config = repository / TOKENIZER.name / CONFIG_FILE
    folders = sorted((int(p.name), p) for p in (repository / TOKENIZER.name).glob("[0-9]*") if p.name.isdigit())
    if not config.is_file() or not folders:
        return None
    try:
        ensemble = repository / "ensemble" / CONFIG_FILE
        version = pinned_version(ensemble.read_text(encoding="utf-8"))
        folder = repository / TOKENIZER.name / str(version)
        return folder, ReleaseSettings.read(folder)
    except (OSError, ValueError, ConchError) as error:
        raise WorkloadError(f"the release in {repository} cannot be read ({SETTINGS_FILE}): {error}") from None
