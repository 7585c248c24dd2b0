"""How many greedy answers stay the same in company: of the bare engine, and through the ensemble.

Sums in a batch of another shape are rounded differently, and where two tokens are nearly as likely the other one wins.
What serving adds to that should be nothing: the ensemble's share belongs beside the bare engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ANSWERS = 64
TOKENS = 24

Ask = Callable[[int], Sequence[object]]  # concurrency -> the answers, in the order of the prompts


@dataclass(frozen=True)
class Agreement:
    """Answers to the same prompts, each alone and all at a time.

    Attributes:
        answers: how many there are.
        bare: of the bare engine, equal alone and together.
        ensemble: of the ensemble, equal alone and together.
        alone: equal between the two, each alone.
    """

    answers: int
    bare: int
    ensemble: int
    alone: int


def agreement(ask_bare: Ask, ask_ensemble: Ask, count: int) -> Agreement:
    """Ask both twice.

    Args:
        ask_bare, ask_ensemble: give the same prompts to either; answers of both must be comparable.
        count: number of prompts.
    """
    bare_alone, bare_together = ask_bare(1), ask_bare(count)
    alone, together = ask_ensemble(1), ask_ensemble(count)
    return Agreement(
        count, _equal(bare_alone, bare_together), _equal(alone, together), _equal(bare_alone, alone)
    )  # fmt: skip


def _equal(one: Sequence[object], other: Sequence[object]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))
