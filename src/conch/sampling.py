"""The controls of one request, validated: from loose values to what an engine may rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conch.contract import (
    CONTROLS,
    END_ID,
    EXCLUDE_INPUT_IN_OUTPUT,
    FREQUENCY_PENALTY,
    MAX_TOKENS,
    MIN_P,
    MIN_TOKENS,
    PAD_ID,
    PRESENCE_PENALTY,
    REPETITION_PENALTY,
    RETURN_NUM_INPUT_TOKENS,
    RETURN_NUM_OUTPUT_TOKENS,
    SEED,
    STOP_WORDS,
    STREAM,
    TEMPERATURE,
    TOP_K,
    TOP_P,
)
from conch.errors import InvalidArgumentError, UnsupportedError

_BY_NAME = {c.name: c for c in CONTROLS}


@dataclass(frozen=True)
class Limits:
    """What one release can do; written into the repository by the build.

    Attributes:
        vocab_size: token ids are in [0, vocab_size).
        max_input_len: most tokens of a prompt.
        max_seq_len: most tokens of prompt and answer together.
        default_max_tokens: max_tokens where a request names none (less if the context has less left).
        eos_token_ids: ids that end an answer.
        pad_token_id: fills up rows.
        max_stop_words, max_stop_word_chars: most stop words of a request, and their length.
    """

    vocab_size: int
    max_input_len: int
    max_seq_len: int
    default_max_tokens: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_stop_words: int
    max_stop_word_chars: int


@dataclass(frozen=True)
class SamplingParams:
    """Controls of one row, complete and consistent. Units and ranges: conch.contract.

    Attributes:
        seed: None: the engine draws one.
        end_ids: ids that end the answer; empty: none does.
        temperature: 0 is greedy, and then top_k, top_p and min_p do nothing.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    end_ids: tuple[int, ...]
    pad_id: int
    stop_words: tuple[str, ...]
    stream: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


def check_values(values: Mapping[str, Any], limits: Limits) -> None:
    """Check each control by itself: the part that needs no prompt.

    Args:
        values: public name -> value (a list of bytes for stop words). Absent is absent.
        limits: of the release.

    Raises:
        InvalidArgumentError: a value is out of its range.
        UnsupportedError: a value that this release cannot honour.
    """
    for name, value in values.items():
        allowed = _BY_NAME[name].allowed
        if allowed is not None and not allowed.contains(value):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise InvalidArgumentError(f"{name} must be {allowed}, got {shown}")
    for control in (END_ID, PAD_ID):
        if values.get(control.name, 0) >= limits.vocab_size:
            raise InvalidArgumentError(f"{control.name} must be < {limits.vocab_size}, got {values[control.name]}")
    if values.get(EXCLUDE_INPUT_IN_OUTPUT.name, True) is False:
        raise UnsupportedError(f"{EXCLUDE_INPUT_IN_OUTPUT.name} must be true: repeating the prompt is not supported")
    stop_words(values, limits)


def stop_words(values: Mapping[str, Any], limits: Limits) -> tuple[str, ...]:
    """The stop words of a request; "" means none, several clients send it.

    Raises:
        InvalidArgumentError: too many, too long, or not UTF-8.
    """
    words: list[str] = []
    name = STOP_WORDS.name
    for data in values.get(name, ()):
        try:
            word = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidArgumentError(
                f"{name} must be valid UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start}"
            ) from None
        if len(word) > limits.max_stop_word_chars:
            raise InvalidArgumentError(
                f"{name} must have at most {limits.max_stop_word_chars} characters each, got {len(word)}"
            )
        if word and word not in words:
            words.append(word)
    if len(words) > limits.max_stop_words:
        raise InvalidArgumentError(f"{name} must be at most {limits.max_stop_words} words, got {len(words)}")
    return tuple(words)


def resolve(values: Mapping[str, Any], input_len: int, limits: Limits) -> SamplingParams:
    """Fill in the defaults and check the controls against the prompt.

    Args:
        values: as for check_values.
        input_len: tokens of the prompt.
        limits: of the release.

    Raises:
        InvalidArgumentError, UnsupportedError: as check_values, and when prompt and answer exceed the context.
    """
    check_values(values, limits)
    get = values.get
    left = limits.max_seq_len - input_len
    if left < 1:
        raise InvalidArgumentError(
            f"the prompt must leave room for one token in a context of {limits.max_seq_len}, got {input_len} tokens"
        )
    max_tokens = int(get(MAX_TOKENS.name, min(limits.default_max_tokens, left)))
    if max_tokens > left:
        raise InvalidArgumentError(
            f"{MAX_TOKENS.name} must be at most {left} (context of {limits.max_seq_len} tokens less {input_len} of "
            f"the prompt), got {max_tokens}"
        )
    min_tokens = int(get(MIN_TOKENS.name, 0))
    if min_tokens > max_tokens:
        raise InvalidArgumentError(
            f"{MIN_TOKENS.name} must be at most {MAX_TOKENS.name} ({max_tokens}), got {min_tokens}"
        )
    end_id = get(END_ID.name)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_temperature(values),
        top_k=int(get(TOP_K.name, 0)),
        top_p=float(get(TOP_P.name, 1.0)),
        min_p=float(get(MIN_P.name, 0.0)),
        repetition_penalty=float(get(REPETITION_PENALTY.name, 1.0)),
        presence_penalty=float(get(PRESENCE_PENALTY.name, 0.0)),
        frequency_penalty=float(get(FREQUENCY_PENALTY.name, 0.0)),
        seed=get(SEED.name),
        end_ids=limits.eos_token_ids if end_id is None else (int(end_id),) if end_id >= 0 else (),
        pad_id=int(get(PAD_ID.name, limits.pad_token_id)),
        stop_words=stop_words(values, limits),
        stream=bool(get(STREAM.name, False)),
        return_num_input_tokens=bool(get(RETURN_NUM_INPUT_TOKENS.name, False)),
        return_num_output_tokens=bool(get(RETURN_NUM_OUTPUT_TOKENS.name, False)),
    )


def _temperature(values: Mapping[str, Any]) -> float:
    """The temperature to sample with; 0 where the request, in whatever way, asks for greedy decoding."""
    if values.get(TOP_K.name) == 1 or values.get(TOP_P.name) == 0:
        return 0.0
    asks_to_sample = values.get(TOP_K.name, 0) > 1 or values.get(TOP_P.name, 1) < 1 or values.get(MIN_P.name, 0) > 0
    return float(values.get(TEMPERATURE.name, 1.0 if asks_to_sample else 0.0))
