"""What is asked: seeded requests, the same for every front, of a length counted by the model's tokenizer."""

from __future__ import annotations

from conch_load.config import RunConfig
from conch_load.workloads.base import Ask, Workload, WorkloadError
from conch_load.workloads.chat import ChatWorkload
from conch_load.workloads.prompts import PromptsWorkload
from conch_load.workloads.synthetic import LengthsWorkload
from conch_load.workloads.tokens import Tokens
from conch_load.workloads.trace import TraceWorkload

__all__ = ["Ask", "Tokens", "Workload", "WorkloadError", "make_workload"]


def make_workload(config: RunConfig, tokens: Tokens) -> Workload:
    """The workload of a run.

    Raises:
        WorkloadError: its file is missing, empty, out of order or not what it should be.
    """
    kind = config.workload.kind
    if kind == "chat":
        return ChatWorkload(config.workload, config.seed, tokens)
    if kind == "prompts":
        return PromptsWorkload(config.workload, config.seed, tokens)
    if kind in ("mooncake", "burstgpt"):
        return TraceWorkload(config.workload, config.seed, tokens)
    return LengthsWorkload(config.workload, config.seed, tokens)
