"""A request and its answers in the tensors of the backend ``tensorrtllm``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch import contract
from conch.errors import UnsupportedError
from conch.sampling import SamplingParams
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.parameters import decoding_mode
from conch.trtllm.tensors import ANSWER_LENGTH, IDS, INPUTS, LENGTHS, PROMPT, PROMPT_LENGTH

_NUMPY: Mapping[str, Any] = {
    "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_, "STRING": np.object_,
}  # fmt: skip
_INPUTS = {tensor.name: tensor for tensor in INPUTS}
_STOP_WORDS, _SEQUENCE = "stop_words_list", "sequence_index"

# Outputs that are asked for: the backend fails without the first two.
ASKED = (IDS, LENGTHS, contract.OUTPUT_LOG_PROBS.name, _SEQUENCE)


def check_request(params: SamplingParams, settings: TensorRtLlm) -> None:
    """Refuse what this engine was not compiled for.

    Raises:
        UnsupportedError: names the control.
    """
    widest = settings.build.max_beam_width
    if params.beam_width > widest:
        raise UnsupportedError(
            f"{contract.BEAM_WIDTH.name} must be at most {widest}, which the engine was compiled for, "
            f"got {params.beam_width}"
        )
    if decoding_mode(settings) == "beam_search" and not params.greedy:
        raise UnsupportedError("the engine was compiled for beam search, and this request asks to sample")
    if params.guide is not None and settings.backend.guided_decoding_backend is None:
        raise UnsupportedError(
            f"{contract.GUIDED_DECODING_GUIDE_TYPE.name} is not supported by this release: its spec sets no "
            "guided_decoding_backend"
        )


def comes_in_pieces(params: SamplingParams) -> bool:
    """Whether the backend streams the answer: always, so that a stop word can end it, but for several to one prompt."""
    return params.beam_width == params.num_sequences == 1


def request_arrays(input_ids: Sequence[int], params: SamplingParams) -> dict[str, NDArray[Any]]:
    """Inputs of one request: name -> array (1, ...)."""
    values: dict[str, Any] = {
        PROMPT: list(input_ids),
        PROMPT_LENGTH: len(input_ids),
        ANSWER_LENGTH: params.max_tokens,
        contract.MIN_TOKENS.engine_name: params.min_tokens,
        contract.END_ID.engine_name: params.end_ids[0] if params.end_ids else -1,
        contract.PAD_ID.engine_name: params.pad_id,
        contract.BEAM_WIDTH.engine_name: params.beam_width,
        contract.REPETITION_PENALTY.engine_name: params.repetition_penalty,
        contract.PRESENCE_PENALTY.engine_name: params.presence_penalty,
        contract.FREQUENCY_PENALTY.engine_name: params.frequency_penalty,
        contract.STREAM.engine_name: comes_in_pieces(params),
        contract.RETURN_LOG_PROBS.engine_name: params.return_log_probs,
        contract.EXCLUDE_INPUT_IN_OUTPUT.engine_name: True,
        # Without one the backend gives every request the same seed.
        contract.SEED.engine_name: secrets.randbits(63) if params.seed is None else params.seed,
    }
    if len(params.end_ids) > 1:  # the backend knows one end; the others are stop words of one token
        values[_STOP_WORDS] = word_list([[end_id] for end_id in params.end_ids[1:]])
    if params.num_sequences > 1:
        values[contract.NUM_RETURN_SEQUENCES.engine_name] = params.num_sequences
    if params.beam_width > 1:
        values[contract.LENGTH_PENALTY.engine_name] = params.length_penalty
    elif params.greedy:
        values[contract.TOP_K.engine_name] = 1
    else:
        values[contract.TEMPERATURE.engine_name] = params.temperature
        values[contract.TOP_K.engine_name] = params.top_k
        values[contract.TOP_P.engine_name] = params.top_p
    if params.guide is not None:
        values[contract.GUIDED_DECODING_GUIDE_TYPE.engine_name] = params.guide.type.encode()
        if params.guide.text:
            values[contract.GUIDED_DECODING_GUIDE.engine_name] = params.guide.text.encode()
    return {name: _array(name, value) for name, value in values.items()}


def stop_arrays() -> dict[str, NDArray[Any]]:
    """Inputs of a request that ends the one with its request id."""
    values = {PROMPT: [0], PROMPT_LENGTH: 1, ANSWER_LENGTH: 1, contract.STOP.engine_name: True}
    return {name: _array(name, value) for name, value in values.items()}


def word_list(words: Sequence[Sequence[int]]) -> list[list[int]]:
    """Token sequences as the backend takes them: all ids in a row, and below where each word ends, padded with -1."""
    ids = [token_id for word in words for token_id in word]
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [ids, ends + [-1] * (len(ids) - len(ends))]


@dataclass(frozen=True)
class Piece:
    """New tokens of one answer.

    Attributes:
        sequence: which answer.
        ids: token ids.
        log_probs: one for each, or none.
    """

    sequence: int
    ids: list[int]
    log_probs: list[float]


def read_pieces(arrays: Mapping[str, NDArray[Any]], params: SamplingParams) -> list[Piece]:
    """What a response of the backend brings; one that only ends an answer brings nothing.

    Args:
        arrays: its outputs: IDS (1, sequences, tokens), LENGTHS (1, sequences), perhaps log probs (1, sequences, n) and
            the number of the answer (1, 1).
        params: of the request.
    """
    if IDS not in arrays:
        return []
    ids, lengths = arrays[IDS][0], arrays[LENGTHS].reshape(-1)
    log_probs = arrays.get(contract.OUTPUT_LOG_PROBS.name) if params.return_log_probs else None
    first = int(arrays[_SEQUENCE].reshape(-1)[0]) if _SEQUENCE in arrays else 0
    pieces = []
    for row, length in enumerate(lengths[: params.num_sequences].tolist()):
        # Whether log probs are of this response or of all so far: the last ones are the newest tokens'.
        values = log_probs[0][row].reshape(-1).tolist()[-length:] if log_probs is not None and length else []
        pieces.append(Piece(first + row, ids[row, :length].tolist(), values))
    return pieces


def _array(name: str, value: Any) -> NDArray[Any]:
    tensor = _INPUTS[name]
    array = np.array(value, dtype=_NUMPY[tensor.data_type])
    return array.reshape((1, *tensor.dims) if tensor.dims != (2, -1) else (1, *array.shape))
