"""Fields of TensorRT-LLM's settings, of this version and old ones: where each goes, or why it goes nowhere."""

from __future__ import annotations

from typing import Any, NamedTuple

from conch.spec_trtllm import CONVERTERS, VERSION
from conch.spec_trtllm_sections import Backend, Build

TRT = "engine.tensorrt_llm"
BUILD, PLUGINS, BACKEND = (f"{TRT}.{section}" for section in ("build", "plugin_config", "backend"))
_QUANTIZATION = f"{TRT}.quantization"
QFORMAT, KV_CACHE = f"{_QUANTIZATION}.qformat", f"{_QUANTIZATION}.kv_cache_dtype"

# Sections whose fields are read as if they stood at the top.
SECTIONS = {
    "build_config", "builder_config", "plugin_config", "pretrained_config", "mapping", "quantization", "quant_config",
    "lora_config", "kv_cache_config", "model_config", "triton_config",
}  # fmt: skip
ARCHITECTURES = {
    **{name.lower(): name for name in CONVERTERS},
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip
_DTYPES = {"auto": "auto", "float16": "float16", "fp16": "float16", "half": "float16", "bfloat16": "bfloat16",
           "bf16": "bfloat16", "float32": "float32", "fp32": "float32"}  # fmt: skip
_QUANT_ALGOS = {
    "no_quant": "full_prec", "none": "full_prec", "fp8": "fp8", "fp8_per_channel_per_token": "fp8_pc_pt",
    "w8a16": "int8_wo", "w4a16": "int4_wo", "w4a16_awq": "int4_awq", "w4a8_awq": "w4a8_awq", "nvfp4": "nvfp4",
    "w8a8_sq_per_channel": "int8_sq", "w8a8_sq_per_tensor_plugin": "int8_sq",
    "w8a8_sq_per_channel_per_token_plugin": "int8_sq", "w8a8_sq_per_channel_per_tensor_plugin": "int8_sq",
    "w8a8_sq_per_tensor_per_token_plugin": "int8_sq",
    **{name: name for name in ("full_prec", "fp8_pc_pt", "int8_sq", "int4_awq", "int8_wo", "int4_wo")},
}  # fmt: skip
SPECULATION = {"none": None, "0": None, "1": None, "draft_tokens_external": "draft_tokens_external",
                "lookahead_decoding": "lookahead_decoding"}  # fmt: skip


class Rule(NamedTuple):
    """Where a field goes: key of the spec, and how its value is read."""

    key: str
    kind: str = "as_is"  # as_is, whole, truth, dtype
    note: str = ""


RULES = {
    "max_batch_size": Rule("engine.max_batch_size", "whole"),
    "max_input_len": Rule("engine.max_input_len", "whole"),
    "max_seq_len": Rule("engine.max_seq_len", "whole"),
    "max_decoder_seq_len": Rule("engine.max_seq_len", "whole"),
    "max_num_tokens": Rule("engine.max_num_tokens", "whole"),
    "enable_kv_cache_reuse": Rule("engine.enable_kv_cache_reuse", "truth"),
    "enable_block_reuse": Rule("engine.enable_kv_cache_reuse", "truth"),
    "dtype": Rule(f"{TRT}.dtype", "dtype"),
    "precision": Rule(f"{TRT}.dtype", "dtype", "the old name of dtype"),
    **dict.fromkeys(("tp_size", "tensor_parallel", "tensor_parallel_size"), Rule(f"{TRT}.tp_size", "whole")),
    **dict.fromkeys(("pp_size", "pipeline_parallel", "pipeline_parallel_size"), Rule(f"{TRT}.pp_size", "whole")),
    "gpus_per_node": Rule(f"{TRT}.gpus_per_node", "whole"),
    "use_flash_attention": Rule(f"{PLUGINS}.context_fmha", "truth", "the flash attention of TensorRT-LLM"),
    "enable_context_fmha": Rule(f"{PLUGINS}.context_fmha", "truth", "the old name of context_fmha"),
    "use_gpt_attention_plugin": Rule(f"{PLUGINS}.gpt_attention_plugin", "plugin", "an old name"),
    "use_gemm_plugin": Rule(f"{PLUGINS}.gemm_plugin", "plugin", "an old name"),
    "use_strip_plan": Rule(f"{BUILD}.strip_plan", "truth"),
    "gather_all_token_logits": Rule(f"{BUILD}.gather_context_logits", "truth"),
    "quant_algo": Rule(QFORMAT, "quant_algo"),
    "qformat": Rule(QFORMAT, "quant_algo"),
    "kv_cache_quant_algo": Rule(KV_CACHE, "kv_cache"),
    "kv_cache_dtype": Rule(KV_CACHE, "kv_cache"),
    "group_size": Rule(f"{_QUANTIZATION}.awq_block_size", "whole"),
    "awq_block_size": Rule(f"{_QUANTIZATION}.awq_block_size", "whole"),
    "calib_dataset": Rule(f"{_QUANTIZATION}.calib_dataset"),
    "calib_size": Rule(f"{_QUANTIZATION}.calib_size", "whole"),
    "calib_max_seq_length": Rule(f"{_QUANTIZATION}.calib_max_seq_length", "whole"),
    "free_gpu_memory_fraction": Rule(f"{BACKEND}.kv_cache_free_gpu_mem_fraction"),
    "max_tokens": Rule(f"{BACKEND}.max_tokens_in_paged_kv_cache", "whole"),
    "enable_chunked_prefill": Rule(f"{BACKEND}.enable_chunked_context", "truth"),
    "decoupled_mode": Rule("", note="Conch's model is always decoupled, and answers once where a client asks so"),
    **{name: Rule(f"{BACKEND}.{name}") for name in Backend.model_fields},
    **{name: Rule(f"{BUILD}.{name}") for name in Build.model_fields},
}
_KV_CACHES = {"none": None, "no_quant": None, "auto": None, "fp8": "fp8", "int8": "int8"}
FLAGS = {"use_fp8": "fp8", "enable_fp8": "fp8", "use_smooth_quant": "int8_sq", "smoothquant": "int8_sq",
          "fp8_kv_cache": "fp8", "int8_kv_cache": "int8"}  # fmt: skip

_PATHS = "Conch chooses its own folders"
_OF_THE_MODEL = "comes from the checkpoint"
_OF_THE_QUANTIZATION = "follows from quantization"
_GONE = f"TensorRT-LLM {VERSION} has it no longer"
_OTHERS = "for models that are not decoders of text"
DROPPED = {
    **dict.fromkeys(("checkpoint_dir", "output_dir", "engine_dir", "model_cls_file", "model_cls_name", "model_config",
                     "input_timing_cache", "output_timing_cache", "gpt_model_path", "tokenizer_dir"), _PATHS),
    **dict.fromkeys((
        "hidden_size", "num_hidden_layers", "num_layers", "num_attention_heads", "num_heads", "num_key_value_heads",
        "num_kv_heads", "head_size", "head_dim", "vocab_size", "hidden_act", "intermediate_size", "norm_epsilon",
        "position_embedding_type", "max_position_embeddings", "rotary_base", "rotary_scaling", "rotary_pct", "moe",
        "qk_layernorm", "residual_mlp", "mlp_bias", "attn_bias", "disable_weight_only_quant_plugin", "embedding_scale",
        "cross_attention", "tie_word_embeddings", "qwen_type", "seq_length", "producer", "model_type", "name",
        "num_labels", "use_logn_attn", "rotary_embedding_dim", "moe_intermediate_size",
        "moe_shared_expert_intermediate_size", "moe_num_experts", "moe_top_k", "moe_tp_mode", "moe_normalization_mode",
        "fc_after_embed", "use_input_layernorm_in_first_layer", "use_last_layernorm", "layer_idx_offset",
        "embedding_multiplier", "attention_multiplier", "residual_multiplier", "output_multiplier_scale",
        "runtime_defaults"),
        _OF_THE_MODEL),
    **dict.fromkeys((
        "weight_only_groupwise_quant_matmul_plugin", "weight_only_quant_matmul_plugin", "smooth_quant_plugins",
        "smooth_quant_gemm_plugin", "layernorm_quantization_plugin", "rmsnorm_quantization_plugin",
        "qserve_gemm_plugin", "quantize_per_token_plugin", "quantize_tensor_plugin", "has_zero_point",
        "pre_quant_scale", "exclude_modules", "kv_dtype", "smoothquant_val",
        "clamp_val", "use_meta_recipe", "per_token", "per_channel", "per_group", "quant_mode"),
        _OF_THE_QUANTIZATION),
    **dict.fromkeys((
        "lookup_plugin", "enable_xqa", "use_custom_all_reduce", "attention_qk_half_accumulation", "builder_opt",
        "parallel_build", "enable_remove_input_padding", "auto_parallel", "cluster_key",
        "enable_trt_overlap", "context_fmha_type", "share_embedding_table", "auto_parallel_config"), _GONE),
    **dict.fromkeys(("strongly_typed", "use_refit", "identity_plugin", "streamingllm", "manage_weights",
                     "use_parallel_embedding", "embedding_sharding_dim"), "TensorRT-LLM's default stands"),
    **dict.fromkeys(("max_encoder_input_len", "max_prompt_embedding_table_size", "max_multimodal_len", "use_mrope",
                     "encoder_model_path", "cross_kv_cache_fraction"), _OTHERS),
    **dict.fromkeys(("dry_run", "visualize_network", "monitor_memory", "enable_debug_output", "force_num_profiles",
                     "opt_batch_size", "int8"), "a switch of one build, not of the model"),
    **dict.fromkeys(("rank", "moe_tp_size", "moe_ep_size", "cp_size", "moe_cluster_size", "attn_tp_size",
                     "attn_cp_size", "gpus", "trtllm_modules_to_hf_modules", "swap_gate_up_proj_lora_b_weight",
                     "remove_duplicated_kv_heads"),
                    "TensorRT-LLM works it out"),
    "explicitly_disable_gemm_plugin": "gemm_plugin says it",
    **dict.fromkeys(("max_loras", "max_cpu_loras"), "the cache of adapters is set in bytes: lora_cache_* of backend"),
    "use_inflight_batching": "requests are always batched in flight",
    "gather_generation_logits": "no client can ask Conch for them",
    "backend": "the compiled engine is served by Triton's backend tensorrtllm",
    "decoupled": "Conch's model is always decoupled, and answers once where a client asks so",
}  # fmt: skip

# kind of a Rule -> words that it takes
TABLES: dict[str, dict[str, Any]] = {"dtype": _DTYPES, "quant_algo": _QUANT_ALGOS, "kv_cache": _KV_CACHES}
