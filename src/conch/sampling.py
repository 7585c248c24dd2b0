"""The controls of one request, validated: from loose values to what an engine may rely on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conch import contract
from conch.contract import CONTROLS, GUIDE_TYPES, Control
from conch.errors import InvalidArgumentError, UnsupportedError
from conch.spec import Runtime
from conch.support import NARROWER, REFUSED

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
        max_stop_words, max_stop_word_chars: most stop words of a request, and their length; bad words, too.
        max_sequences: most beams or answers of one row.
        max_guide_bytes: longest guide of guided decoding.
        runtime: which engine; what it cannot do is refused.
    """

    vocab_size: int
    max_input_len: int
    max_seq_len: int
    default_max_tokens: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    max_stop_words: int
    max_stop_word_chars: int
    max_sequences: int
    max_guide_bytes: int
    runtime: Runtime


@dataclass(frozen=True)
class Guide:
    """What an answer must be.

    Attributes:
        type: one of conch.contract.GUIDE_TYPES.
        text: schema, expression or grammar; empty for ``json``.
    """

    type: str
    text: str


@dataclass(frozen=True)
class SamplingParams:
    """Controls of one row, complete and consistent. Units and ranges: conch.contract.

    Attributes:
        seed: None: the engine draws one.
        end_ids: ids that end the answer; empty: none does.
        temperature: 0 is greedy, and then top_k, top_p and min_p do nothing.
        beam_width: beams that are searched; 1: no beam search.
        num_sequences: answers to return.
        guide: None: the answer is free.
        timeout_ms: None: no limit.
        lora_task_id: None: no adapter.
        repeat_prompt: the answer begins with the prompt; never with stream.
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
    bad_words: tuple[str, ...] = ()
    beam_width: int = 1
    num_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    no_repeat_ngram_size: int = 0
    guide: Guide | None = None
    priority: int = 0
    timeout_ms: int | None = None
    lora_task_id: int | None = None
    return_log_probs: bool = False
    return_token_ids: bool = False
    return_perf_metrics: bool = False
    repeat_prompt: bool = False

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
        control = _BY_NAME[name]
        allowed = NARROWER.get(limits.runtime, {}).get(control, control.allowed)
        if allowed is not None and not allowed.contains(value):
            raise InvalidArgumentError(f"{name} must be {allowed}, got {_shown(value)}")
    for control in (contract.END_ID, contract.PAD_ID):
        if values.get(control.name, 0) >= limits.vocab_size:
            raise InvalidArgumentError(f"{control.name} must be < {limits.vocab_size}, got {values[control.name]}")
    for control, reason in REFUSED[limits.runtime].items():
        if _asks(values, control):
            raise UnsupportedError(f"{control.name} is not supported by the runtime {limits.runtime.value}: {reason}")
    for control in (contract.STOP_WORDS, contract.BAD_WORDS):
        words(values, control, limits)
    if any(values.get(contract.BAD_WORDS.name, ())):
        _check_guided(values, limits, contract.BAD_WORDS.name)
    _check_sequences(values, limits)
    _guide(values, limits)


def _asks(values: Mapping[str, Any], control: Control) -> bool:
    """Whether a request wants something of a control, and does not just say so."""
    value = values.get(control.name)
    if isinstance(value, list):
        return any(value)
    return value not in (None, control.neutral, b"")


def _check_sequences(values: Mapping[str, Any], limits: Limits) -> None:
    """Beam search and several answers: what goes with what."""
    for control in (contract.BEAM_WIDTH, contract.NUM_RETURN_SEQUENCES):
        count = values.get(control.name, 1)
        if count > limits.max_sequences:
            raise InvalidArgumentError(f"{control.name} must be at most {limits.max_sequences}, got {count}")
        if count > 1 and values.get(contract.STREAM.name):
            raise UnsupportedError(f"{control.name} must be 1 when {contract.STREAM.name} is true, got {count}")
    beams = values.get(contract.BEAM_WIDTH.name, 1)
    sequences = values.get(contract.NUM_RETURN_SEQUENCES.name, 1)
    sampled = _temperature(values) > 0
    if beams > 1:
        if sequences > beams:
            raise InvalidArgumentError(
                f"{contract.NUM_RETURN_SEQUENCES.name} must be at most {contract.BEAM_WIDTH.name} ({beams}), "
                f"got {sequences}"
            )
        if sampled:
            raise InvalidArgumentError(
                f"{contract.BEAM_WIDTH.name} must be 1 where the request asks to sample (temperature, top_k, top_p or "
                f"min_p), got {beams}"
            )
        return
    if sequences > 1 and not sampled:
        raise InvalidArgumentError(
            f"{contract.NUM_RETURN_SEQUENCES.name} must be 1 in greedy decoding, which has one answer; ask to sample "
            f"(temperature), or set {contract.BEAM_WIDTH.name}; got {sequences}"
        )
    for control in (contract.LENGTH_PENALTY, contract.EARLY_STOPPING, contract.NO_REPEAT_NGRAM_SIZE):
        if _asks(values, control):
            raise InvalidArgumentError(
                f"{control.name} needs {contract.BEAM_WIDTH.name} > 1, got {_shown(values[control.name])}"
            )


def _guide(values: Mapping[str, Any], limits: Limits) -> Guide | None:
    """What the answer must be, or None.

    Raises:
        InvalidArgumentError: unknown type, type and guide do not go together, not UTF-8, too long, or what cannot
            go with it. Whether the guide itself makes sense is the engine's to say.
    """
    type_name, guide_name = contract.GUIDED_DECODING_GUIDE_TYPE.name, contract.GUIDED_DECODING_GUIDE.name
    kind, text = (_text(values.get(name, b""), name) for name in (type_name, guide_name))
    if not kind:
        if text:
            raise InvalidArgumentError(f"{guide_name} needs {type_name}: one of {', '.join(GUIDE_TYPES)}")
        return None
    if kind not in GUIDE_TYPES:
        raise InvalidArgumentError(f"{type_name} must be one of {', '.join(GUIDE_TYPES)}, got {kind!r:.60}")
    if (kind == "json") == bool(text):
        rule = "must be empty" if text else "must not be empty"
        raise InvalidArgumentError(f"{guide_name} {rule} when {type_name} is {kind}")
    size = len(values.get(guide_name, b""))
    if size > limits.max_guide_bytes:
        raise InvalidArgumentError(f"{guide_name} must have at most {limits.max_guide_bytes} bytes, got {size}")
    if any(values.get(contract.BAD_WORDS.name, ())):
        raise UnsupportedError(f"{contract.BAD_WORDS.name} must be empty when {type_name} is set")
    if values.get(contract.END_ID.name) == -1:
        raise InvalidArgumentError(f"{contract.END_ID.name} must not be -1 when {type_name} is set: a guide has an end")
    if values.get(contract.MIN_TOKENS.name, 0) > 0:
        raise UnsupportedError(
            f"{contract.MIN_TOKENS.name} must be 0 when {type_name} is set (what it asks for may be shorter), got "
            f"{values[contract.MIN_TOKENS.name]}"
        )
    _check_guided(values, limits, type_name)
    return Guide(kind, text)


def _check_guided(values: Mapping[str, Any], limits: Limits, name: str) -> None:
    """What goes with a guide, or with bad words, which the engine honours in the same way.

    Args:
        values, limits: as for check_values.
        name: of the control that asks for it.
    """
    for control in (contract.BEAM_WIDTH, contract.NUM_RETURN_SEQUENCES):
        if values.get(control.name, 1) > 1:
            raise UnsupportedError(f"{control.name} must be 1 when {name} is set, got {values[control.name]}")
    end_id = values.get(contract.END_ID.name, -1)
    if end_id != -1 and end_id not in limits.eos_token_ids:
        raise UnsupportedError(
            f"{contract.END_ID.name} must be one of the model's own ({', '.join(map(str, limits.eos_token_ids))}) when "
            f"{name} is set, got {end_id}"
        )


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"{name} must be valid UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from None


def words(values: Mapping[str, Any], control: Control, limits: Limits) -> tuple[str, ...]:
    """The stop words or bad words of a request; "" means none, several clients send it.

    Raises:
        InvalidArgumentError: too many, too long, or not UTF-8.
    """
    found: list[str] = []
    name = control.name
    for data in values.get(name, ()):
        word = _text(data, name)
        if len(word) > limits.max_stop_word_chars:
            raise InvalidArgumentError(
                f"{name} must have at most {limits.max_stop_word_chars} characters each, got {len(word)}"
            )
        if word and word not in found:
            found.append(word)
    if len(found) > limits.max_stop_words:
        raise InvalidArgumentError(f"{name} must be at most {limits.max_stop_words} words, got {len(found)}")
    return tuple(found)


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
    max_tokens = int(get(contract.MAX_TOKENS.name, min(limits.default_max_tokens, left)))
    if max_tokens > left:
        raise InvalidArgumentError(
            f"{contract.MAX_TOKENS.name} must be at most {left} (context of {limits.max_seq_len} tokens less "
            f"{input_len} of the prompt), got {max_tokens}"
        )
    min_tokens = int(get(contract.MIN_TOKENS.name, 0))
    if min_tokens > max_tokens:
        raise InvalidArgumentError(
            f"{contract.MIN_TOKENS.name} must be at most {contract.MAX_TOKENS.name} ({max_tokens}), got {min_tokens}"
        )
    end_id = get(contract.END_ID.name)
    stream = bool(get(contract.STREAM.name, False))
    beam_width = int(get(contract.BEAM_WIDTH.name, 1))
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_temperature(values),
        top_k=int(get(contract.TOP_K.name, 0)),
        top_p=float(get(contract.TOP_P.name, 1.0)),
        min_p=float(get(contract.MIN_P.name, 0.0)),
        repetition_penalty=float(get(contract.REPETITION_PENALTY.name, 1.0)),
        presence_penalty=float(get(contract.PRESENCE_PENALTY.name, 0.0)),
        frequency_penalty=float(get(contract.FREQUENCY_PENALTY.name, 0.0)),
        seed=get(contract.SEED.name),
        end_ids=limits.eos_token_ids if end_id is None else (int(end_id),) if end_id >= 0 else (),
        pad_id=int(get(contract.PAD_ID.name, limits.pad_token_id)),
        stop_words=words(values, contract.STOP_WORDS, limits),
        bad_words=words(values, contract.BAD_WORDS, limits),
        beam_width=beam_width,
        num_sequences=int(get(contract.NUM_RETURN_SEQUENCES.name, beam_width)),
        length_penalty=float(get(contract.LENGTH_PENALTY.name, 1.0)),
        early_stopping=bool(get(contract.EARLY_STOPPING.name, False)),
        no_repeat_ngram_size=int(get(contract.NO_REPEAT_NGRAM_SIZE.name, 0)),
        guide=_guide(values, limits),
        priority=int(get(contract.PRIORITY.name, 0)),
        timeout_ms=get(contract.TIMEOUT_MS.name),
        lora_task_id=get(contract.LORA_TASK_ID.name),
        return_log_probs=bool(get(contract.RETURN_LOG_PROBS.name, False)),
        return_token_ids=bool(get(contract.RETURN_TOKEN_IDS.name, False)),
        return_perf_metrics=bool(get(contract.RETURN_PERF_METRICS.name, False)),
        # TensorRT-LLM streams nothing but what is new either, whatever the request says.
        repeat_prompt=not stream and not get(contract.EXCLUDE_INPUT_IN_OUTPUT.name, True),
        stream=stream,
        return_num_input_tokens=bool(get(contract.RETURN_NUM_INPUT_TOKENS.name, False)),
        return_num_output_tokens=bool(get(contract.RETURN_NUM_OUTPUT_TOKENS.name, False)),
    )


def _temperature(values: Mapping[str, Any]) -> float:
    """The temperature to sample with; 0 where the request, in whatever way, asks for greedy decoding."""
    top_k, top_p = values.get(contract.TOP_K.name, 0), values.get(contract.TOP_P.name, 1)
    min_p = values.get(contract.MIN_P.name, 0)
    if top_k == 1 or top_p == 0 or min_p == 1:
        return 0.0
    asks_to_sample = top_k > 1 or top_p < 1 or min_p > 0
    return float(values.get(contract.TEMPERATURE.name, 1.0 if asks_to_sample else 0.0))


def _shown(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
