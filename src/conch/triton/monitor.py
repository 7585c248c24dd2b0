"""Who is told of what happens to requests: metrics and logs."""

from __future__ import annotations

from typing import Protocol

from conch.engines.base import EngineState, Tokens
from conch.triton.answers import Row


class Monitor(Protocol):
    """Called from the threads that do the work: must return at once and never raise."""

    def arrived(self, row: Row) -> None:
        """A row was taken in."""

    def tokens(self, row: Row, event: Tokens, gap_ns: int) -> None:
        """The engine produced tokens at a time, ``gap_ns`` after those before; 0: these are the first."""

    def step_done(self) -> None:
        """A step of the engine is over."""

    def ended(self, row: Row, reason: str) -> None:
        """A row is over: one of conch.contract.FINISH_REASONS, or conch.metric_table.FAILED."""

    def state(self, state: EngineState) -> None:
        """News of the engine."""
