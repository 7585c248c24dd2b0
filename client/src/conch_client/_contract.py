"""Names and types of the request contract. Written by build_scripts/write_client_contract.py."""

# ruff: noqa: E501

from __future__ import annotations

from typing import NamedTuple, TypedDict


class Control(NamedTuple):
    """A control of a request.

    Attributes:
        dtype: dtype in the KServe v2 protocol.
        dims: shape without the batch dimension; -1 is any length.
        doc: meaning, unit and default.
    """

    dtype: str
    dims: tuple[int, ...]
    doc: str


class Parameters(TypedDict, total=False):
    """Keyword arguments of a generation."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    end_id: int
    pad_id: int
    stop_words: list[str]
    bad_words: list[str]
    beam_width: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool
    no_repeat_ngram_size: int
    guided_decoding_guide_type: str
    guided_decoding_guide: str
    lora_task_id: int
    priority: int
    timeout_ms: int
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_log_probs: bool
    return_token_ids: bool
    return_perf_metrics: bool
    return_context_logits: bool
    return_generation_logits: bool
    exclude_input_in_output: bool


CONTROLS: dict[str, Control] = {
    "max_tokens": Control("INT32", (1,), "Most tokens to generate. Default: default_max_tokens of the spec, or what the context has left."),
    "min_tokens": Control("INT32", (1,), "End-of-sequence cannot be chosen before this many tokens. Default 0."),
    "temperature": Control("FP32", (1,), "Divides the logits; 0 is greedy. Default: 1 if top_k, top_p or min_p asks for sampling, else greedy."),
    "top_k": Control("INT32", (1,), "Sample among the k likeliest tokens; 1 is greedy, 0 is all. Default 0."),
    "top_p": Control("FP32", (1,), "Sample among the likeliest tokens whose probabilities reach p; 0 is greedy, 1 is all. Default 1."),
    "min_p": Control("FP32", (1,), "Drop tokens less likely than min_p times the likeliest one; 1 is greedy. Default 0."),
    "repetition_penalty": Control("FP32", (1,), "Divides the logits of tokens already in prompt or answer; 1 is off. Default 1."),
    "presence_penalty": Control("FP32", (1,), "Subtracted once from the logit of a token already in the answer. Default 0."),
    "frequency_penalty": Control("FP32", (1,), "Subtracted from a token's logit for every time it is in the answer. Default 0."),
    "seed": Control("UINT64", (1,), "Seed of the sampler. Default: drawn anew for every request."),
    "end_id": Control("INT32", (1,), "Token id that ends the answer; -1: none does. Default: the model's."),
    "pad_id": Control("INT32", (1,), "Token id that fills up shorter rows of output_ids. Default: the model's."),
    "stop_words": Control("BYTES", (-1,), "Texts that end the answer, cut before the first of them; \"\" means none."),
    "bad_words": Control("BYTES", (-1,), "Texts that never appear in the answer; \"\" means none."),
    "beam_width": Control("INT32", (1,), "Beams of a beam search, which is greedy and not streamed; 1 is none. Default 1."),
    "num_return_sequences": Control("INT32", (1,), "Answers to one prompt: samples, or the best beams. Not streamed. Default: 1, or beam_width."),
    "length_penalty": Control("FP32", (1,), "Exponent of the length that a beam's score is divided by: above 0 favours long answers. Default 1."),
    "early_stopping": Control("BOOL", (1,), "A beam search ends with beam_width finished answers. Default false: when none is likely to get better."),
    "no_repeat_ngram_size": Control("INT32", (1,), "A beam holds no sequence of so many tokens twice; 0 is off. Default 0."),
    "guided_decoding_guide_type": Control("BYTES", (1,), "What the answer must be: json (any, without a guide), json_schema, regex or ebnf_grammar. Default none."),
    "guided_decoding_guide": Control("BYTES", (1,), "The schema, regular expression or grammar itself. Default none."),
    "lora_task_id": Control("UINT64", (1,), "Which LoRA adapter to use. Default none."),
    "priority": Control("INT32", (1,), "Among waiting requests the lowest goes first; equal ones in their order. Default 0."),
    "timeout_ms": Control("INT32", (1,), "The answer must be complete so long after its arrival; refused or ended if it cannot be. Default: no limit."),
    "return_num_input_tokens": Control("BOOL", (1,), "Send num_input_tokens with the responses. Default false."),
    "return_num_output_tokens": Control("BOOL", (1,), "Send num_output_tokens with the responses. Default false."),
    "return_log_probs": Control("BOOL", (1,), "Send output_log_probs and cum_log_probs with the responses. Default false."),
    "return_token_ids": Control("BOOL", (1,), "Send token_ids with the responses. Default false."),
    "return_perf_metrics": Control("BOOL", (1,), "Send the four times of an answer with its last response. Default false."),
    "return_context_logits": Control("BOOL", (1,), "Logits of the prompt. Default false."),
    "return_generation_logits": Control("BOOL", (1,), "Logits of the answer. Default false."),
    "exclude_input_in_output": Control("BOOL", (1,), "false: answers begin with the prompt, as its tokens read; streams never do, as in TensorRT-LLM. Default true."),
}
STREAM = "stream"
STOP = "stop"
GUIDED_DECODING_GUIDE_TYPE = "guided_decoding_guide_type"
GUIDED_DECODING_GUIDE = "guided_decoding_guide"

# Text inputs, BYTES of dims (1,), and outputs.
TEXT_INPUT = "text_input"
MESSAGES = "messages"
TEXT_OUTPUT = "text_output"
FINISH_REASON = "finish_reason"
NUM_INPUT_TOKENS = "num_input_tokens"
NUM_OUTPUT_TOKENS = "num_output_tokens"
OUTPUT_LOG_PROBS = "output_log_probs"
CUM_LOG_PROBS = "cum_log_probs"
TOKEN_IDS = "token_ids"
PERF_TIMES = (
    "arrival_time_ns",
    "first_scheduled_time_ns",
    "first_token_time_ns",
    "last_token_time_ns",
)
REPORTED = (
    "finish_reason",
    "num_input_tokens",
    "num_output_tokens",
    "output_log_probs",
    "cum_log_probs",
    "token_ids",
    "batch_index",
    "arrival_time_ns",
    "first_scheduled_time_ns",
    "first_token_time_ns",
    "last_token_time_ns",
)

DEFAULT_MODEL = "ensemble"
MODELS = ("tokenizer", "llama_engine", "detokenizer", "ensemble", "llama_pipeline")
# A release may do without them.
TWINS = ("unsigned", "unary", "ensemble_single", "ensemble_u32", "unary_u32", "unary_scalar")
ENSEMBLES = ("ensemble", "llama_pipeline")

# Ensemble -> contract's name of a tensor -> its name there, where it differs.
RENAMES: dict[str, dict[str, str]] = {
    "llama_pipeline": {"text_input": "INPUT_TEXT", "text_output": "OUTPUT_TEXT"},
}

DEFAULT_HOST = "127.0.0.1"
HOST_VARIABLE = "CONCH_HOST"
HTTP_PORT_VARIABLE = "CONCH_HTTP_PORT"
DEFAULT_HTTP_PORT = 8000
GRPC_PORT_VARIABLE = "CONCH_GRPC_PORT"
DEFAULT_GRPC_PORT = 8001
METRICS_PORT_VARIABLE = "CONCH_METRICS_PORT"
DEFAULT_METRICS_PORT = 8002
