"""The config.json of real models, as far as memory depends on it, and what was published about their size."""

from __future__ import annotations

from typing import Any

_LLAMA = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-05, "tie_word_embeddings": False}

CONFIGS: dict[str, dict[str, Any]] = {
    "Llama-2-7B": {
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "torch_dtype": "float16",
    },
    "Llama-2-70B": {
        **_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 4096, "torch_dtype": "float16",
    },
    "Llama-3.1-8B": {
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
        "rope_scaling": {"factor": 8.0, "rope_type": "llama3", "original_max_position_embeddings": 8192},
    },
    "Mixtral-8x7B": {
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
        "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
    "Mistral-7B": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
    "Qwen2.5-7B": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    },
    "Qwen2.5-3B": {
        "model_type": "qwen2", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    },
}  # fmt: skip

# total_size of model.safetensors.index.json: bytes of all weights, two each.
SAFETENSORS_BYTES = {
    "Llama-2-7B": 13_476_839_424,
    "Llama-2-70B": 137_953_316_864,
    "Llama-3.1-8B": 16_060_522_496,
    "Mixtral-8x7B": 93_405_585_408,
    "Mistral-7B": 14_483_464_192,
    "Qwen2.5-7B": 15_231_233_024,
    "Qwen2.5-3B": 6_171_877_376,
}
# Billions of parameters, as papers and model cards round them.
CARD_BILLIONS = {"Llama-2-7B": 6.74, "Llama-2-70B": 68.98, "Llama-3.1-8B": 8.03, "Mixtral-8x7B": 46.7}
# Bytes of a token in a 16-bit KV cache; sources in docs/memory_planner.md.
KV_BYTES_PER_TOKEN = {
    "Llama-2-7B": 524_288,
    "Llama-2-70B": 327_680,
    "Llama-3.1-8B": 131_072,
    "Mixtral-8x7B": 131_072,
    "Qwen3-0.6B": 114_688,
}
