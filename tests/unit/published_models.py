"""Real models that the planner is compared with, and what was published about their size."""

from __future__ import annotations

from typing import Any

from conch.memory_plan.known_models import known_models

REPOSITORIES = {
    "Llama-2-7B": "meta-llama/Llama-2-7b-hf",
    "Llama-2-70B": "meta-llama/Llama-2-70b-hf",
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Mixtral-8x7B": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "Mistral-7B": "mistralai/Mistral-7B-Instruct-v0.2",
    "Qwen2.5-7B": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen2.5-3B": "Qwen/Qwen2.5-3B-Instruct",
    "Qwen3-0.6B": "Qwen/Qwen3-0.6B",
    "SmolLM2-135M": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
CONFIGS: dict[str, dict[str, Any]] = {name: dict(known_models()[path]) for name, path in REPOSITORIES.items()}

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
