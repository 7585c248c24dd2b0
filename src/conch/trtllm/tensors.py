"""Inputs and outputs of Triton's backend ``tensorrtllm``, as TensorRT-LLM 1.2 declares them.

They are another system's contract, so their names stand here and not in conch.contract. All are declared, also those
that Conch never sends: clients that were written for that backend find what they know.
"""

from __future__ import annotations

from dataclasses import dataclass

# Name of the model. NVIDIA's clients and launch script look for it under this one.
BACKEND_MODEL = "tensorrt_llm"
BACKEND = "tensorrtllm"

# Places of dtypes that the engine decides.
LOGITS, EMBEDDINGS, ENCODER = "logits", "embeddings", "encoder"


@dataclass(frozen=True)
class BackendTensor:
    """One tensor.

    Attributes:
        name: its name.
        data_type: as in config.pbtxt without ``TYPE_``; or LOGITS, EMBEDDINGS, ENCODER.
        dims: without the batch dimension.
        optional: a request may leave it out.
        ragged: rows of different length may be batched.
        scalar: [1] on the wire, and no dimension inside of the backend.
    """

    name: str
    data_type: str
    dims: tuple[int, ...] = (1,)
    optional: bool = True
    ragged: bool = False
    scalar: bool = False


def _scalars(data_type: str, *names: str) -> list[BackendTensor]:
    return [BackendTensor(name, data_type, scalar=True) for name in names]


def _ragged(data_type: str, dims: tuple[int, ...], *names: str) -> list[BackendTensor]:
    return [BackendTensor(name, data_type, dims, ragged=True) for name in names]


# Needed by every request; the prompt, too, though the backend declares it optional for encoders.
PROMPT, PROMPT_LENGTH, ANSWER_LENGTH = "input_ids", "input_lengths", "request_output_len"

INPUTS: tuple[BackendTensor, ...] = (
    *_ragged("INT32", (-1,), PROMPT),
    *_ragged(ENCODER, (-1, -1), "encoder_input_features"),
    *_scalars("INT32", "encoder_output_lengths"),
    BackendTensor(PROMPT_LENGTH, "INT32", optional=False, scalar=True),
    BackendTensor(ANSWER_LENGTH, "INT32", optional=False, scalar=True),
    *_scalars("INT32", "num_return_sequences"),
    *_ragged("INT32", (-1,), "draft_input_ids", "decoder_input_ids"),
    *_scalars("INT32", "decoder_input_lengths"),
    *_ragged(LOGITS, (-1, -1), "draft_logits"),
    *_scalars("FP32", "draft_acceptance_threshold"),
    *_scalars("INT32", "end_id", "pad_id"),
    *_ragged("INT32", (2, -1), "stop_words_list", "bad_words_list"),
    *_ragged("FP32", (-1,), "embedding_bias"),
    *_scalars("INT32", "beam_width"),
    *_scalars("FP32", "temperature"),
    *_scalars("INT32", "runtime_top_k"),
    *_scalars("FP32", "runtime_top_p", "runtime_top_p_min", "runtime_top_p_decay"),
    *_scalars("INT32", "runtime_top_p_reset_ids"),
    *_scalars("FP32", "len_penalty"),
    *_scalars("BOOL", "early_stopping"),
    *_scalars("FP32", "repetition_penalty"),
    *_scalars("INT32", "min_tokens"),
    *_scalars("FP32", "beam_search_diversity_rate", "presence_penalty", "frequency_penalty"),
    *_scalars("UINT64", "seed"),
    *_scalars("BOOL", "return_log_probs", "return_context_logits", "return_generation_logits", "return_perf_metrics"),
    *_scalars("BOOL", "return_num_input_tokens", "return_num_output_tokens", "exclude_input_in_output"),
    *_scalars("BOOL", "stop", "streaming"),
    *_ragged(EMBEDDINGS, (-1, -1), "prompt_embedding_table"),
    *_ragged("UINT64", (-1,), "prompt_table_extra_ids"),
    *_scalars("INT32", "prompt_vocab_size"),
    *_ragged("BOOL", (-1, -1), "cross_attention_mask"),
    BackendTensor("mrope_rotary_cos_sin", "FP32", (-1,)),
    BackendTensor("mrope_position_deltas", "INT64"),
    *_scalars("UINT64", "lora_task_id"),
    *_ragged("FP16", (-1, -1), "lora_weights"),
    *_ragged("INT32", (-1, 3), "lora_config"),
    *_ragged("UINT8", (-1,), "context_phase_params"),
    *_ragged("BOOL", (1,), "skip_cross_attn_blocks"),
    *_ragged("INT32", (-1,), "retention_token_range_starts", "retention_token_range_ends"),
    *_ragged("INT32", (-1,), "retention_token_range_priorities", "retention_token_range_durations_ms"),
    *_ragged("INT32", (1,), "retention_decode_priority", "retention_decode_duration_ms"),
    *_ragged("STRING", (1,), "guided_decoding_guide_type", "guided_decoding_guide"),
    *_ragged("INT32", (1,), "lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size"),
)

# The ids come first: NVIDIA's benchmark reads the length of the answer from the first output. Every request must ask
# for these two.
IDS, LENGTHS = "output_ids", "sequence_length"

OUTPUTS: tuple[BackendTensor, ...] = (
    BackendTensor(IDS, "INT32", (-1, -1)),
    BackendTensor(LENGTHS, "INT32", (-1,)),
    BackendTensor("cum_log_probs", "FP32", (-1,)),
    BackendTensor("output_log_probs", "FP32", (-1, -1)),
    BackendTensor("context_logits", LOGITS, (-1, -1)),
    BackendTensor("generation_logits", LOGITS, (-1, -1, -1)),
    BackendTensor("batch_index", "INT32"),
    BackendTensor("sequence_index", "INT32"),
    BackendTensor("context_phase_params", "UINT8", (-1,)),
    *(BackendTensor(f"kv_cache_{n}", "INT32") for n in ("alloc_new_blocks", "reused_blocks", "alloc_total_blocks")),
    *(BackendTensor(f"{n}_time_ns", "INT64") for n in ("arrival", "first_scheduled", "first_token", "last_token")),
    BackendTensor("acceptance_rate", "FP32"),
    *(BackendTensor(n, "INT32") for n in ("total_accepted_draft_tokens", "total_draft_tokens")),
    *(BackendTensor(n, "INT32") for n in ("num_input_tokens", "num_output_tokens")),
)
