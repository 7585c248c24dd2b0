"""The request contract: the only place where a tensor's name, dtype, dims, default and range are written.

The engine speaks the tensor names of NVIDIA's TensorRT-LLM backend, so that its C++ backend, the Python engine and
existing clients are interchangeable. The ensembles' public names are those of the ``ensemble`` model there. A
control of a request (temperature, max_tokens, ...) is declared once, with both names; every config.pbtxt, the
validation and the reference table in the docs are made from these declarations.

Dims leave out the batch dimension, as in config.pbtxt: on the wire every tensor has one more, in front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum


class DType(str, Enum):
    """Tensor dtypes by their name in the KServe v2 protocol."""

    BYTES = "BYTES"
    BOOL = "BOOL"
    INT32 = "INT32"
    INT64 = "INT64"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    FP32 = "FP32"

    @property
    def triton_name(self) -> str:
        """Name in config.pbtxt (``TYPE_...``)."""
        return "TYPE_STRING" if self is DType.BYTES else f"TYPE_{self.value}"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model.

    Attributes:
        name: its name on the wire.
        dtype: element type.
        dims: shape without the batch dimension; -1 is any length.
        doc: meaning and unit, one line.
        optional: an input that a request may leave out; for outputs, one that a response may leave out.
        ragged: rows of different length may be batched together by Triton.
    """

    name: str
    dtype: DType
    dims: tuple[int, ...]
    doc: str
    optional: bool = False
    ragged: bool = False

    def renamed(self, name: str) -> TensorSpec:
        """The same tensor under another name."""
        return replace(self, name=name)


@dataclass(frozen=True)
class Range:
    """The values a control may take, ends included unless ``*_open``; NaN and infinities are never in range."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False

    def contains(self, value: float) -> bool:
        """Whether ``value`` is allowed."""
        if not math.isfinite(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            if self.low == -math.inf:
                return "a finite number"
            low = _plain(self.low)
            return f"a finite number > {low}" if self.low_open else f"a finite number >= {low}"
        return f"in {'(' if self.low_open else '['}{_plain(self.low)}, {_plain(self.high)}]"


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


@dataclass(frozen=True)
class Control:
    """A control of one request: how long, how random, when to stop, what to return.

    Attributes:
        name: public name, on the ensembles.
        engine_name: the TensorRT-LLM backend's name, on the engine.
        dtype, dims: as in TensorSpec.
        doc: meaning, unit and default.
        allowed: numeric range, None where any value of the dtype will do.
        ragged: as in TensorSpec.
        neutral: a value that asks for nothing, so that every runtime takes it.
    """

    name: str
    engine_name: str
    dtype: DType
    doc: str
    dims: tuple[int, ...] = (1,)
    allowed: Range | None = None
    ragged: bool = False
    neutral: object = None

    @property
    def public(self) -> TensorSpec:
        """As an optional input of an ensemble and of the tokenizer."""
        return TensorSpec(self.name, self.dtype, self.dims, self.doc, optional=True, ragged=self.ragged)

    @property
    def engine(self) -> TensorSpec:
        """As an optional output of the tokenizer and an optional input of the engine."""
        return TensorSpec(self.engine_name, self.dtype, self.dims, self.doc, optional=True, ragged=self.ragged)


MAX_TOKENS = Control(
    "max_tokens", "request_output_len", DType.INT32,
    "Most tokens to generate. Default: default_max_tokens of the spec, or what the context has left.",
    allowed=Range(1),
)
MIN_TOKENS = Control(
    "min_tokens", "min_tokens", DType.INT32,
    "End-of-sequence cannot be chosen before this many tokens. Default 0.", allowed=Range(0),
)
TEMPERATURE = Control(
    "temperature", "temperature", DType.FP32,
    "Divides the logits; 0 is greedy. Default: 1 if top_k, top_p or min_p asks for sampling, else greedy.",
    allowed=Range(0, 100),
)
TOP_K = Control(
    "top_k", "runtime_top_k", DType.INT32,
    "Sample among the k likeliest tokens; 1 is greedy, 0 is all. Default 0.", allowed=Range(0),
)
TOP_P = Control(
    "top_p", "runtime_top_p", DType.FP32,
    "Sample among the likeliest tokens whose probabilities reach p; 0 is greedy, 1 is all. Default 1.",
    allowed=Range(0, 1),
)
MIN_P = Control(
    "min_p", "min_p", DType.FP32,
    "Drop tokens less likely than min_p times the likeliest one; 1 is greedy. Default 0.", allowed=Range(0, 1),
)
REPETITION_PENALTY = Control(
    "repetition_penalty", "repetition_penalty", DType.FP32,
    "Divides the logits of tokens already in prompt or answer; 1 is off. Default 1.",
    allowed=Range(0, 10, low_open=True),
)
PRESENCE_PENALTY = Control(
    "presence_penalty", "presence_penalty", DType.FP32,
    "Subtracted once from the logit of a token already in the answer. Default 0.", allowed=Range(-2, 2),
)
FREQUENCY_PENALTY = Control(
    "frequency_penalty", "frequency_penalty", DType.FP32,
    "Subtracted from a token's logit for every time it is in the answer. Default 0.", allowed=Range(-2, 2),
)
SEED = Control("seed", "seed", DType.UINT64, "Seed of the sampler. Default: drawn anew for every request.")
END_ID = Control(
    "end_id", "end_id", DType.INT32,
    "Token id that ends the answer; -1: none does. Default: the model's.", allowed=Range(-1),
)
PAD_ID = Control(
    "pad_id", "pad_id", DType.INT32,
    "Token id that fills up shorter rows of output_ids. Default: the model's.", allowed=Range(0),
)
STOP_WORDS = Control(
    "stop_words", "stop_words", DType.BYTES,
    'Texts that end the answer, cut before the first of them; "" means none.', dims=(-1,), ragged=True,
)
STREAM = Control(
    "stream", "streaming", DType.BOOL, "One response per token batch instead of one in all. Default false."
)
RETURN_NUM_INPUT_TOKENS = Control(
    "return_num_input_tokens", "return_num_input_tokens", DType.BOOL,
    "Send num_input_tokens with the responses. Default false.",
)
RETURN_NUM_OUTPUT_TOKENS = Control(
    "return_num_output_tokens", "return_num_output_tokens", DType.BOOL,
    "Send num_output_tokens with the responses. Default false.",
)
EXCLUDE_INPUT_IN_OUTPUT = Control(
    "exclude_input_in_output", "exclude_input_in_output", DType.BOOL,
    "false: answers begin with the prompt, as its tokens read; streams never do, as in TensorRT-LLM. Default true.",
)

BAD_WORDS = Control(
    "bad_words", "bad_words", DType.BYTES,
    'Texts that never appear in the answer; "" means none.', dims=(-1,), ragged=True,
)
BEAM_WIDTH = Control(
    "beam_width", "beam_width", DType.INT32,
    "Beams of a beam search, which is greedy and not streamed; 1 is none. Default 1.", allowed=Range(1), neutral=1,
)
NUM_RETURN_SEQUENCES = Control(
    "num_return_sequences", "num_return_sequences", DType.INT32,
    "Answers to one prompt: samples, or the best beams. Not streamed. Default: 1, or beam_width.",
    allowed=Range(1), neutral=1,
)
LENGTH_PENALTY = Control(
    "length_penalty", "len_penalty", DType.FP32,
    "Exponent of the length that a beam's score is divided by: above 0 favours long answers. Default 1.",
    allowed=Range(-10, 10), neutral=1.0,
)
EARLY_STOPPING = Control(
    "early_stopping", "early_stopping", DType.BOOL,
    "A beam search ends with beam_width finished answers. Default false: when none is likely to get better.",
    neutral=False,
)
NO_REPEAT_NGRAM_SIZE = Control(
    "no_repeat_ngram_size", "no_repeat_ngram_size", DType.INT32,
    "A beam holds no sequence of so many tokens twice; 0 is off. Default 0.", allowed=Range(0), neutral=0,
)
RETURN_LOG_PROBS = Control(
    "return_log_probs", "return_log_probs", DType.BOOL,
    "Send output_log_probs and cum_log_probs with the responses. Default false.", neutral=False,
)
RETURN_TOKEN_IDS = Control(
    "return_token_ids", "return_token_ids", DType.BOOL,
    "Send token_ids with the responses. Default false.", neutral=False,
)
RETURN_PERF_METRICS = Control(
    "return_perf_metrics", "return_perf_metrics", DType.BOOL,
    "Send the four times of an answer with its last response. Default false.", neutral=False,
)
GUIDED_DECODING_GUIDE_TYPE = Control(
    "guided_decoding_guide_type", "guided_decoding_guide_type", DType.BYTES,
    "What the answer must be: json (any, without a guide), json_schema, regex or ebnf_grammar. Default none.",
    ragged=True,
)
GUIDED_DECODING_GUIDE = Control(
    "guided_decoding_guide", "guided_decoding_guide", DType.BYTES,
    "The schema, regular expression or grammar itself. Default none.", ragged=True,
)
LORA_TASK_ID = Control(
    "lora_task_id", "lora_task_id", DType.UINT64, "Which LoRA adapter to use. Default none."
)
RETURN_CONTEXT_LOGITS = Control(
    "return_context_logits", "return_context_logits", DType.BOOL, "Logits of the prompt. Default false.", neutral=False,
)
RETURN_GENERATION_LOGITS = Control(
    "return_generation_logits", "return_generation_logits", DType.BOOL, "Logits of the answer. Default false.",
    neutral=False,
)
STOP = Control(
    "stop", "stop", DType.BOOL,
    "Ends the requests in flight that have this request's id; nothing is generated for this one. Default false.",
    neutral=False,
)
PRIORITY = Control(
    "priority", "priority", DType.INT32,
    "Among waiting requests the lowest goes first; equal ones in their order. Default 0.", neutral=0,
)
TIMEOUT_MS = Control(
    "timeout_ms", "timeout_ms", DType.INT32,
    "The answer must be complete so long after its arrival; refused or ended if it cannot be. Default: no limit.",
    allowed=Range(1),
)

CONTROLS: tuple[Control, ...] = (
    MAX_TOKENS, MIN_TOKENS, TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION_PENALTY, PRESENCE_PENALTY,
    FREQUENCY_PENALTY, SEED, END_ID, PAD_ID, STOP_WORDS, BAD_WORDS, BEAM_WIDTH, NUM_RETURN_SEQUENCES, LENGTH_PENALTY,
    EARLY_STOPPING, NO_REPEAT_NGRAM_SIZE, GUIDED_DECODING_GUIDE_TYPE, GUIDED_DECODING_GUIDE, LORA_TASK_ID, STREAM,
    STOP, PRIORITY, TIMEOUT_MS, RETURN_NUM_INPUT_TOKENS, RETURN_NUM_OUTPUT_TOKENS, RETURN_LOG_PROBS, RETURN_TOKEN_IDS,
    RETURN_PERF_METRICS, RETURN_CONTEXT_LOGITS, RETURN_GENERATION_LOGITS, EXCLUDE_INPUT_IN_OUTPUT,
)  # fmt: skip
GUIDE_TYPES = ("json", "json_schema", "regex", "ebnf_grammar")

# --- text side -------------------------------------------------------------------------------------------------

TEXT_INPUT = TensorSpec(
    "text_input", DType.BYTES, (1,), "Prompt as UTF-8 text, taken as it is. Exactly one of this and messages.",
    optional=True,
)
MESSAGES = TensorSpec(
    "messages", DType.BYTES, (1,),
    "Chat as a JSON list of {role, content}; the model's chat template makes the prompt of it.", optional=True,
)
# One element for each of num_return_sequences, best first if they are beams. Declared with a dimension for the row, and
# sent without one: so NVIDIA's postprocessing does it, and clients read output[0] as a text. Triton does not look.
TEXT_OUTPUT = TensorSpec(
    "text_output", DType.BYTES, (-1,),
    "Text of this response: a piece of the answer if streamed. One per sequence; sent as [rows * sequences].",
)
FINISH_REASON = TensorSpec(
    "finish_reason", DType.BYTES, (-1,), "stop, length or cancelled; on the last response only. One per sequence.",
    optional=True,
)
NUM_INPUT_TOKENS = TensorSpec(
    "num_input_tokens", DType.INT32, (1,), "Tokens of the prompt; if return_num_input_tokens.", optional=True
)
NUM_OUTPUT_TOKENS = TensorSpec(
    "num_output_tokens", DType.INT32, (-1,),
    "Tokens of this response alone; if return_num_output_tokens. One per sequence.", optional=True,
)
OUTPUT_LOG_PROBS = TensorSpec(
    "output_log_probs", DType.FP32, (-1, -1),
    "Natural logarithm of the probability of each token of this response: (sequence, token); if return_log_probs.",
    optional=True,
)
CUM_LOG_PROBS = TensorSpec(
    "cum_log_probs", DType.FP32, (-1,), "Sum of the log probs of the answer so far: (sequence,); if return_log_probs.",
    optional=True,
)
TOKEN_IDS = TensorSpec(
    "token_ids", DType.INT32, (-1, -1),
    "Token ids of this response, the answer's alone: (sequence, token); if return_token_ids.",
    optional=True,
)
_IF_PERF = "nanoseconds since 1970; if return_perf_metrics, on the last response."
ARRIVAL_TIME_NS = TensorSpec(
    "arrival_time_ns", DType.INT64, (1,), f"When the request reached the engine, {_IF_PERF}", optional=True
)
FIRST_SCHEDULED_TIME_NS = TensorSpec(
    "first_scheduled_time_ns", DType.INT64, (1,), f"When it left the queue, {_IF_PERF}", optional=True
)
FIRST_TOKEN_TIME_NS = TensorSpec(
    "first_token_time_ns", DType.INT64, (1,), f"When its first token was there, {_IF_PERF}", optional=True
)
LAST_TOKEN_TIME_NS = TensorSpec(
    "last_token_time_ns", DType.INT64, (1,), f"When its last token was there, {_IF_PERF}", optional=True
)
PERF_TIMES = (ARRIVAL_TIME_NS, FIRST_SCHEDULED_TIME_NS, FIRST_TOKEN_TIME_NS, LAST_TOKEN_TIME_NS)
BATCH_INDEX = TensorSpec(
    "batch_index", DType.INT32, (1,), "Row of the request that a streamed response belongs to; if it has rows > 1.",
    optional=True,
)

# --- token side ------------------------------------------------------------------------------------------------

INPUT_IDS = TensorSpec("input_ids", DType.INT32, (-1,), "Token ids of the prompt, rows padded at the end.", ragged=True)
INPUT_LENGTHS = TensorSpec("input_lengths", DType.INT32, (1,), "Tokens of each row of input_ids.")
REQUEST_OUTPUT_LEN = MAX_TOKENS.engine
OUTPUT_IDS = TensorSpec(
    "output_ids", DType.INT32, (-1, -1),
    "Token ids of this response, behind the prompt's if they are asked for: (sequence, token); rows padded at the end.",
    ragged=True,
)
SEQUENCE_LENGTH = TensorSpec(
    "sequence_length", DType.INT32, (-1,), "Tokens of each sequence of output_ids: (sequence,)."
)
CONTEXT_IDS = TensorSpec(
    "context_ids", DType.INT32, (-1,),
    "The text-bearing tokens just before output_ids, as many as decoding needs; absent at the start of an answer.",
    optional=True, ragged=True,
)
TRIM_CHARS = TensorSpec(
    "trim_chars", DType.INT32, (-1,),
    "Characters to cut from the end of this response's text (a stop word). One per sequence.", optional=True,
)

SEND_RECEIPTS = TensorSpec(
    "send_receipts", DType.BOOL, (1,),
    "The caller hands receipt on to the detokenizer; the engine gives up a request whose receipts stay away.",
    optional=True,
)
RECEIPT = TensorSpec(
    "receipt", DType.INT64, (5,), "Where the detokenizer notes that this response has reached it.", optional=True
)

FINISH_REASONS = ("stop", "length", "cancelled")

# Names that other clients use for a control (TensorRT-LLM before 0.20): alias -> control.
ALIASES: dict[str, Control] = {"random_seed": SEED, "min_length": MIN_TOKENS}

# What other servers (OpenAI, vLLM, TGI, Ollama, old TensorRT-LLM) call a field: not taken, named in the error.
NAMES_ELSEWHERE: dict[str, str] = {
    "prompt": TEXT_INPUT.name, "inputs": TEXT_INPUT.name,
    **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "num_predict", "max_output_len"), MAX_TOKENS.name),
    "min_new_tokens": MIN_TOKENS.name, "repeat_penalty": REPETITION_PENALTY.name, "n": NUM_RETURN_SEQUENCES.name,
    "logprobs": RETURN_LOG_PROBS.name, "best_of": BEAM_WIDTH.name, "num_beams": BEAM_WIDTH.name,
    "stop_sequences": STOP_WORDS.name, "ignore_eos": END_ID.name,
}  # fmt: skip

# Request parameters that Triton or its clients add on their own: not fields of the contract, and no misspelling.
TRITON_PARAMETERS = frozenset(
    {
        "id", "timeout", "sequence_id", "sequence_start", "sequence_end", "binary_data_output",
        "triton_enable_empty_final_response", "triton_final_response", "headers", "classification",
        "accumulate_tokens",  # vLLM's benchmark sends it to every TensorRT-LLM server
    }
)  # fmt: skip


# What the engine reports of an answer, and an ensemble hands on as it is.
REPORTED = (
    FINISH_REASON, NUM_INPUT_TOKENS, NUM_OUTPUT_TOKENS, OUTPUT_LOG_PROBS, CUM_LOG_PROBS, TOKEN_IDS, BATCH_INDEX,
    *PERF_TIMES,
)  # fmt: skip


@dataclass(frozen=True)
class ModelContract:
    """Inputs and outputs of one model of the repository.

    Attributes:
        name: model name; the folder's name in the repository.
        inputs, outputs: tensors, in the order in which they are declared to Triton.
        decoupled: may send any number of responses per request.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    decoupled: bool = False


# fmt: off
TOKENIZER = ModelContract(
    "tokenizer",
    inputs=(
        TEXT_INPUT, MESSAGES, *(c.public for c in CONTROLS), *(c.public.renamed(n) for n, c in ALIASES.items())
    ),
    outputs=(INPUT_IDS, INPUT_LENGTHS, SEND_RECEIPTS, *(c.engine for c in CONTROLS)),
)
ENGINE = ModelContract(
    "llama_engine",
    inputs=(INPUT_IDS, INPUT_LENGTHS, SEND_RECEIPTS, *(c.engine for c in CONTROLS)),
    outputs=(
        OUTPUT_IDS, SEQUENCE_LENGTH, CONTEXT_IDS, TRIM_CHARS, *REPORTED, RECEIPT,
    ),
    decoupled=True,
)
DETOKENIZER = ModelContract(
    "detokenizer",
    inputs=(OUTPUT_IDS, SEQUENCE_LENGTH, CONTEXT_IDS, TRIM_CHARS, replace(FINISH_REASON, optional=True), RECEIPT),
    outputs=(TEXT_OUTPUT,),
)
# fmt: on
STAGES = (TOKENIZER, ENGINE, DETOKENIZER)


def _may_be_negative(name: str) -> bool:
    allowed = ALIASES[name].allowed if name in ALIASES else {c.name: c for c in CONTROLS}[name].allowed
    return allowed is None or allowed.low < 0


def unsigned(tensor: TensorSpec) -> TensorSpec:
    """A public input as clients of unsigned integers send it: UINT32 for INT32, but where a value may be negative."""
    keeps = tensor.dtype is not DType.INT32 or _may_be_negative(tensor.name)
    return tensor if keeps else replace(tensor, dtype=DType.UINT32)


# Two models that some clients need beside the three stages: docs/adr/0009-twins.md.
UNSIGNED = ModelContract("unsigned", inputs=tuple(map(unsigned, TOKENIZER.inputs)), outputs=TOKENIZER.inputs)
UNARY = ModelContract(
    "unary", inputs=TOKENIZER.inputs, outputs=(TEXT_OUTPUT, *(t for t in REPORTED if t is not BATCH_INDEX))
)
TWIN_STAGES = (UNSIGNED, UNARY)
# Requests that unary asks the engine at a time; those beyond wait in front of it.
UNARY_IN_FLIGHT = 128


class Rows(Enum):
    """How the rows of a request show in the shapes of an ensemble's tensors."""

    MANY = "a row each in the first dimension, in and out"
    ONE = "inputs [1, ...]: one row; outputs without that dimension"
    NONE = "one row, without a dimension for it, in and out"


@dataclass(frozen=True)
class EnsembleContract:
    """Models in a row, under public names.

    Attributes:
        name: model name.
        doc: what it is for.
        renames: public name of a tensor -> its name in this ensemble, where it differs.
        steps: the models.
        rows: shapes of requests and responses.
        text_only: nothing is sent but the text, which so is the first output.
    """

    name: str
    doc: str
    renames: dict[str, str] = field(default_factory=dict)
    steps: tuple[ModelContract, ...] = STAGES
    rows: Rows = Rows.MANY
    text_only: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Every input of the first step, under this ensemble's names; for Rows.ONE with the dimension of the row."""
        return tuple(
            replace(t, name=self.renames.get(t.name, t.name), dims=((1, *t.dims) if self.rows is Rows.ONE else t.dims))
            for t in self.steps[0].inputs
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The text, then what the engine reports. Triton sends the outputs of an ensemble in an order of its own."""
        reported = () if self.text_only else UNARY.outputs[1:] if UNARY in self.steps else REPORTED
        return tuple(t.renamed(self.renames.get(t.name, t.name)) for t in (TEXT_OUTPUT, *reported))

    @property
    def streams(self) -> bool:
        """Whether one request may have several responses."""
        return any(step.decoupled for step in self.steps)


ENSEMBLE = EnsembleContract("ensemble", "For most clients: streams, takes several rows.")
PIPELINE = EnsembleContract(
    "llama_pipeline",
    "The same under two other names.",
    renames={TEXT_INPUT.name: "INPUT_TEXT", TEXT_OUTPUT.name: "OUTPUT_TEXT"},
)
ENSEMBLES = (ENSEMBLE, PIPELINE)
ENSEMBLE_SINGLE = EnsembleContract(
    "ensemble_single",
    "One row, and no output has a dimension for it: finish_reason is [1] where ensemble sends [1, 1].",
    rows=Rows.ONE,
)
ENSEMBLE_U32 = EnsembleContract(
    "ensemble_u32",
    "As ensemble_single, with UINT32 where that takes INT32. For LangChain.",
    steps=(UNSIGNED, *STAGES),
    rows=Rows.ONE,
)
UNARY_U32 = EnsembleContract(
    "unary_u32",
    "As ensemble_u32, answers once, through HTTP infer and unary gRPC, too. For Locust's triton-infer.",
    steps=(UNSIGNED, UNARY),
    rows=Rows.ONE,
)
UNARY_SCALAR = EnsembleContract(
    "unary_scalar",
    "As unary, with inputs [1] instead of [1, 1], and the text alone. For LiteLLM's infer.",
    steps=(UNARY,),
    rows=Rows.NONE,
    text_only=True,
)
TWINS = (ENSEMBLE_SINGLE, ENSEMBLE_U32, UNARY_U32, UNARY_SCALAR)


def stages(twins: bool) -> tuple[ModelContract, ...]:
    """Models that have a process each."""
    return (*STAGES, *TWIN_STAGES) if twins else STAGES


def ensembles(twins: bool) -> tuple[EnsembleContract, ...]:
    """Models that are made of others."""
    return (*ENSEMBLES, *TWINS) if twins else ENSEMBLES


def model_names(twins: bool) -> tuple[str, ...]:
    """Every model of a release.

    Args:
        twins: serving.twins of its spec.
    """
    return (*(stage.name for stage in stages(twins)), *(ensemble.name for ensemble in ensembles(twins)))


MODEL_NAMES = model_names(twins=True)

# --- where the server listens ------------------------------------------------------------------------------------

DEFAULT_HOST = "127.0.0.1"
HTTP_PORT_VARIABLE, DEFAULT_HTTP_PORT = "CONCH_HTTP_PORT", 8000
GRPC_PORT_VARIABLE, DEFAULT_GRPC_PORT = "CONCH_GRPC_PORT", 8001
METRICS_PORT_VARIABLE, DEFAULT_METRICS_PORT = "CONCH_METRICS_PORT", 8002
HOST_VARIABLE = "CONCH_HOST"

# --- what the supervisor knows the engine by ---------------------------------------------------------------------

# What the engine's own process runs; one of them is among its arguments.
WORKER_MODULE, ASYNC_WORKER_MODULE = "conch.engines.worker", "conch.engines.async_worker"

# In the text of an UNAVAILABLE, after an attempt to start the engine's process has failed.
ENGINE_CANNOT_START = "the engine cannot be started"
