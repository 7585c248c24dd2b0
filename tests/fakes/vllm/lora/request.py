"""vllm/lora/request.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoRARequest:
    """An adapter."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
