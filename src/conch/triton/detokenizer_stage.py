"""Last stage: token ids in, text out. Keeps no state: what decoding needs comes with every chunk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from conch.contract import (
    CONTEXT_IDS,
    DETOKENIZER,
    FINISH_REASON,
    OUTPUT_IDS,
    RECEIPT,
    SEQUENCE_LENGTH,
    TEXT_OUTPUT,
    TRIM_CHARS,
    Range,
    TensorSpec,
)
from conch.errors import InvalidArgumentError
from conch.repository.settings import ReleaseSettings
from conch.text.detokenizer import decode_chunk
from conch.text.token_bytes import TokenBytes
from conch.triton import codec
from conch.triton.guard import run_each
from conch.triton.receipts import ReceiptWriter


class DetokenizerStage:
    """The detokenizer of one version.

    Args:
        folder: version folder in the repository.

    Raises:
        RepositoryError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._table = TokenBytes.load(folder, ReleaseSettings.read(folder).limits.vocab_size)
        self._receipts = ReceiptWriter()

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Decode each request.

        Returns:
            One response per request: TEXT_OUTPUT (rows * sequences,), UTF-8.
        """
        return run_each(requests, self._one)

    def _one(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        codec.refuse_unknown_parameters(request, DETOKENIZER)
        arrays = codec.read_arrays(request, DETOKENIZER)
        output_ids, lengths, trims = (arrays.get(t.name) for t in (OUTPUT_IDS, SEQUENCE_LENGTH, TRIM_CHARS))
        assert output_ids is not None
        assert lengths is not None
        _check_counts(SEQUENCE_LENGTH, lengths, output_ids, output_ids.shape[2])
        if trims is not None:
            _check_counts(TRIM_CHARS, trims, output_ids)
        if RECEIPT.name in arrays:
            self._receipts.write(arrays[RECEIPT.name][0].tolist())
        context = arrays.get(CONTEXT_IDS.name)
        final = FINISH_REASON.name in arrays
        texts = np.empty(output_ids.shape[:2], dtype=np.object_)
        for place in product(*map(range, texts.shape)):  # np.ndindex takes as long as all the rest
            ids = output_ids[place][: lengths[place]].tolist()
            text = decode_chunk(self._table, () if context is None else context[place[0]].tolist(), ids, final=final)
            if trims is not None and trims[place]:
                text = text[: -trims[place]]
            texts[place] = text.encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor(TEXT_OUTPUT.name, texts.reshape(-1))])


def _check_counts(spec: TensorSpec, counts: NDArray[Any], output_ids: NDArray[Any], most: int | None = None) -> None:
    """Refuse counts that are not one for each sequence of output_ids, below 0, or above ``most``.

    Raises:
        InvalidArgumentError: names the field, the rule and the value.
    """
    if counts.shape != output_ids.shape[:2]:
        raise InvalidArgumentError(
            f"{spec.name} must have the shape {list(output_ids.shape[:2])}, a value for each sequence of "
            f"{OUTPUT_IDS.name}, got {list(counts.shape)}"
        )
    values = counts.ravel().tolist()
    bad = [v for v in values if v < 0 or (most is not None and v > most)]
    if bad:
        allowed = Range(0) if most is None else Range(0, most)
        raise InvalidArgumentError(f"{spec.name} must be {allowed}, got {bad[0]}")
