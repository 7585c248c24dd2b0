"""Last stage: token ids in, text out. Keeps no state: what decoding needs comes with every chunk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from conch.contract import (
    CONTEXT_IDS,
    DETOKENIZER,
    FINISH_REASON,
    OUTPUT_IDS,
    RECEIPT,
    SEQUENCE_LENGTH,
    TEXT_OUTPUT,
    TRIM_CHARS,
)
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
            One response per request: TEXT_OUTPUT (rows, sequences), UTF-8.
        """
        return run_each(requests, self._one)

    def _one(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        arrays = codec.read_arrays(request, DETOKENIZER)
        output_ids = arrays[OUTPUT_IDS.name]
        final = FINISH_REASON.name in arrays
        if RECEIPT.name in arrays:
            self._receipts.write(arrays[RECEIPT.name][0].tolist())
        lengths = arrays.get(SEQUENCE_LENGTH.name)
        context = arrays.get(CONTEXT_IDS.name)
        trims = arrays.get(TRIM_CHARS.name)
        texts = np.empty(output_ids.shape[:2], dtype=np.object_)
        for place in product(*map(range, texts.shape)):  # np.ndindex takes as long as all the rest
            ids = output_ids[place].tolist()
            if lengths is not None:
                ids = ids[: lengths[place]]
            text = decode_chunk(self._table, () if context is None else context[place[0]].tolist(), ids, final=final)
            if trims is not None and trims[place]:
                text = text[: -trims[place]]
            texts[place] = text.encode()
        return pb_utils.InferenceResponse([pb_utils.Tensor(TEXT_OUTPUT.name, texts)])
