"""The files of a served tokenizer, and what they say: written by the build, read by every stage.

A tokenizer folder holds three files: ``tokenizer.json`` (of the `tokenizers` library), ``chat_template.jinja``
(absent where the model has none) and ``tokenizer_meta.json`` (TokenizerMeta).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from conch.errors import RepositoryError

TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
META_FILE = "tokenizer_meta.json"


@dataclass(frozen=True)
class TokenizerMeta:
    """What a tokenizer.json does not say.

    Attributes:
        vocab_size: number of token ids that the model knows; ids are 0 <= id < vocab_size.
        max_position_embeddings: the model's context, in tokens.
        eos_token_ids: ids that end an answer (several where the model's generation config has several).
        pad_token_id: id that fills up rows.
        bos_token, eos_token: their texts, as chat templates name them; empty where there is none.
        add_special_tokens: whether encoding a plain prompt adds what tokenizer.json's post-processor adds (BOS).
    """

    vocab_size: int
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    bos_token: str
    eos_token: str
    add_special_tokens: bool

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or self.max_position_embeddings < 2:
            raise RepositoryError(
                f"vocab_size must be >= 1 and max_position_embeddings >= 2, got {self.vocab_size} and "
                f"{self.max_position_embeddings}"
            )
        for name, ids in (("eos_token_ids", self.eos_token_ids), ("pad_token_id", (self.pad_token_id,))):
            for token_id in ids:
                if not 0 <= token_id < self.vocab_size:
                    raise RepositoryError(f"{name} must be in [0, {self.vocab_size}), got {token_id}")

    def write(self, folder: Path) -> None:
        """Write META_FILE into ``folder``."""
        (folder / META_FILE).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> TokenizerMeta:
        """Read META_FILE of ``folder``.

        Raises:
            RepositoryError: the file is missing, or not what this version of Conch writes.
        """
        path = folder / META_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            expected = {f.name for f in fields(cls)}
            if set(data) != expected:
                raise ValueError(f"keys must be {sorted(expected)}, got {sorted(data)}")
            return cls(**{**data, "eos_token_ids": tuple(data["eos_token_ids"])})
        except (OSError, ValueError, TypeError) as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from None
