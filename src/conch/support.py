"""What each runtime cannot honour. A control that is not listed for a runtime is honoured by it."""

from __future__ import annotations

from conch.contract import (
    BAD_WORDS,
    BEAM_WIDTH,
    EARLY_STOPPING,
    GUIDED_DECODING_GUIDE,
    GUIDED_DECODING_GUIDE_TYPE,
    LENGTH_PENALTY,
    LORA_TASK_ID,
    MIN_P,
    NO_REPEAT_NGRAM_SIZE,
    NUM_RETURN_SEQUENCES,
    RETURN_CONTEXT_LOGITS,
    RETURN_GENERATION_LOGITS,
    RETURN_LOG_PROBS,
    TEMPERATURE,
    Control,
    Range,
)
from conch.spec import Runtime

_NO_LOGITS = dict.fromkeys(
    (RETURN_CONTEXT_LOGITS, RETURN_GENERATION_LOGITS),
    "it gives no logits out; return_log_probs gives the log probs of the tokens that were chosen",
)
_NO_MODEL = "it has no model"
_OF_BEAMS = (BEAM_WIDTH, LENGTH_PENALTY, EARLY_STOPPING, NO_REPEAT_NGRAM_SIZE)

# runtime -> control -> why not
REFUSED: dict[Runtime, dict[Control, str]] = {
    Runtime.OPENVINO: {LORA_TASK_ID: "it has one set of adapters for all requests of a batch", **_NO_LOGITS},
    Runtime.ECHO: dict.fromkeys(
        (
            BAD_WORDS, BEAM_WIDTH, NUM_RETURN_SEQUENCES, LENGTH_PENALTY, EARLY_STOPPING, NO_REPEAT_NGRAM_SIZE,
            GUIDED_DECODING_GUIDE_TYPE, GUIDED_DECODING_GUIDE, LORA_TASK_ID, RETURN_LOG_PROBS, RETURN_CONTEXT_LOGITS,
            RETURN_GENERATION_LOGITS,
        ),
        _NO_MODEL,
    ),
    Runtime.TENSORRTLLM: {
        BAD_WORDS: "it forbids sequences of tokens, and a text can be cut into many of them",
        EARLY_STOPPING: "its backend declares a truth value and reads a number",
        LORA_TASK_ID: "weights of adapters are not handed on",
        MIN_P: "its backend has no such input",
        NO_REPEAT_NGRAM_SIZE: "its backend declares no such input",
        **_NO_LOGITS,
    },
    Runtime.VLLM: {**dict.fromkeys(_OF_BEAMS, "its engine has no beam search"), **_NO_LOGITS},
    Runtime.LLMAPI: {
        **dict.fromkeys(_OF_BEAMS, "it is loaded for a beam width of 1"), LORA_TASK_ID: "it loads no adapters",
        **_NO_LOGITS,
    },
}  # fmt: skip

# runtime -> control -> the values that it takes, where those are fewer than the contract's.
NARROWER: dict[Runtime, dict[Control, Range]] = {
    Runtime.VLLM: {TEMPERATURE: Range(0, 2)},  # vllm/sampling_params.py, _verify_args
}
