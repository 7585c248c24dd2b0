"""What a run needs before it begins: tokenizer, workload, schedule, and whether they fit the model."""

from __future__ import annotations

from dataclasses import dataclass

from conch_load.arrivals import schedule
from conch_load.config import TRITON_FRONTS, RunConfig
from conch_load.workloads import Tokens, Workload, WorkloadError, make_workload
from conch_load.workloads.base import check_context
from conch_load.workloads.tokens import release_of

_LOOKED_AT = 10_000  # requests of an endless workload whose length is checked beforehand


@dataclass(frozen=True)
class Prepared:
    """Ready to be sent.

    Attributes:
        tokens: the model's tokenizer.
        workload: what is asked.
        due_ns: open loop: when each request is due.
        deterministic: whether the server says that greedy answers do not depend on what else it does.
    """

    tokens: Tokens
    workload: Workload
    due_ns: list[int]
    deterministic: bool


def prepare(config: RunConfig) -> Prepared:
    """Make what the config asks for.

    Raises:
        WorkloadError: no tokenizer, a bad file, a workload longer than the context, or no request at all.
    """
    release = release_of(config.repository) if config.front in TRITON_FRONTS else None
    path = config.tokenizer or (release[0] if release else None)
    if path is None:
        raise WorkloadError(
            f"no tokenizer to count with: {config.repository} holds no release" if config.front in TRITON_FRONTS else
            "tokenizer must be given for the front openai: the tokenizer.json of the model that is asked"
        )  # fmt: skip
    tokens = Tokens(path)
    workload = make_workload(config, tokens)
    due = schedule(config, workload.times_ns)
    if config.arrivals.kind != "closed" and not due:
        raise WorkloadError(f"no request is due within {config.warm_up_s + config.duration_s:g} s")
    limits = release[1].limits if release else None
    check_context(
        workload, len(due) or _LOOKED_AT, limits.max_input_len if limits else None,
        config.context_tokens or (limits.max_seq_len if limits else None),
    )  # fmt: skip
    return Prepared(tokens, workload, due, bool(release and release[1].spec.engine.deterministic))
