"""What is asked: seeded requests, the same for every front, of a length counted by the model's tokenizer."""

from __future__ import annotations

import math

from conch_load.arrivals import trace_end_ns
from conch_load.config import NO_SALT, RunConfig
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
    kind, salt = config.workload.kind, "" if config.salt == NO_SALT else config.salt
    if kind == "chat":
        return ChatWorkload(config.workload, config.seed, tokens, salt)
    if kind == "prompts":
        return PromptsWorkload(config.workload, config.seed, tokens, salt)
    if kind in ("mooncake", "burstgpt"):
        until_ns = trace_end_ns(config) if config.arrivals.kind == "trace" else math.inf
        return TraceWorkload(config.workload, config.seed, tokens, salt, until_ns)
    return LengthsWorkload(config.workload, config.seed, tokens, salt)
