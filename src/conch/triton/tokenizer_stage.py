"""First stage: text or messages in, token ids and checked controls out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from conch.contract import INPUT_IDS, INPUT_LENGTHS, MESSAGES, SEND_RECEIPTS, STOP, TEXT_INPUT, TOKENIZER
from conch.errors import ConchError, InvalidArgumentError
from conch.repository.settings import ReleaseSettings
from conch.sampling import resolve
from conch.text.tokenizer import PromptTokenizer
from conch.triton import codec
from conch.triton.guard import run_each


class TokenizerStage:
    """The tokenizer of one version.

    Args:
        folder: version folder in the repository.

    Raises:
        RepositoryError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        settings = ReleaseSettings.read(folder)
        self._limits = settings.limits
        self._tokenizer = PromptTokenizer(folder, settings.limits.max_input_len)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Tokenize each request.

        Returns:
            One response per request: INPUT_IDS (rows, longest), INPUT_LENGTHS (rows, 1), SEND_RECEIPTS (rows, 1) and
            the controls that were sent, under the engine's names.
        """
        return run_each(requests, self._one)

    def _one(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        codec.refuse_unknown_parameters(request, TOKENIZER)
        arrays = codec.read_arrays(request)
        if STOP.name in arrays and arrays[STOP.name].any():
            return self._stop(arrays)
        texts, messages = arrays.get(TEXT_INPUT.name), arrays.get(MESSAGES.name)
        if texts is not None and messages is not None:  # KServe clients that must fill every string send an empty one
            if not any(texts.flat):
                texts = None
            elif not any(messages.flat):
                messages = None
        if (texts is None) == (messages is None):
            both = "neither" if texts is None else "both"
            raise InvalidArgumentError(
                f"exactly one of {TEXT_INPUT.name} and {MESSAGES.name} must be given, got {both}"
            )
        prompts = texts if texts is not None else messages
        assert prompts is not None
        rows = len(prompts)
        encode = self._tokenizer.encode_text if texts is not None else self._tokenizer.encode_messages
        controls = codec.public_controls(arrays, rows)
        ids = [self._row(encode, prompts[row][0], controls[row], row, rows) for row in range(rows)]
        lengths = [len(row) for row in ids]
        padded = np.full((rows, max(lengths)), self._limits.pad_token_id, dtype=np.int32)
        for row, values in enumerate(ids):
            padded[row, : len(values)] = values
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(INPUT_IDS.name, padded),
                codec.tensor(INPUT_LENGTHS, lengths, (rows, 1)),
                codec.tensor(SEND_RECEIPTS, [True] * rows, (rows, 1)),
                *codec.engine_tensors(arrays),
            ]
        )

    def _stop(self, arrays: codec.Arrays) -> pb_utils.InferenceResponse:
        """A request to end others has no prompt; the engine reads its id."""
        dims = (len(arrays[STOP.name]), 1)
        return pb_utils.InferenceResponse(
            [
                codec.tensor(INPUT_IDS, np.full(dims, self._limits.pad_token_id), dims),
                codec.tensor(INPUT_LENGTHS, np.ones(dims), dims),
                *codec.engine_tensors(arrays),
            ]
        )

    def _row(self, encode: Any, prompt: bytes, controls: dict[str, Any], row: int, rows: int) -> list[int]:
        try:
            ids: list[int] = encode(prompt)
            resolve(controls, len(ids), self._limits)
        except ConchError as error:
            if rows > 1:
                raise type(error)(f"row {row}: {error.message}", mend=error.mend) from None
            raise
        return ids
