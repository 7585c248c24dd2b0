"""Who is told of what happens to requests: metrics and logs."""

from __future__ import annotations

from typing import Protocol

from conch.engines.base import EngineState
from conch.triton.answers import Row

# How a row ended, beside conch.contract.FINISH_REASONS.
FAILED = "error"


class Monitor(Protocol):
    """Called from the threads that do the work: must return at once and never raise."""

    def arrived(self, row: Row) -> None:
        """A row was taken in."""

    def tokens(self, row: Row, count: int, gap_ns: int) -> None:
        """The engine produced ``count`` tokens at a time, ``gap_ns`` after those before; 0: these are the first."""

    def ended(self, row: Row, reason: str) -> None:
        """A row is over: one of conch.contract.FINISH_REASONS, or FAILED."""

    def state(self, state: EngineState) -> None:
        """News of the engine."""


class NoMonitor(Monitor):
    """Tells nobody."""

    def arrived(self, row: Row) -> None:
        pass

    def tokens(self, row: Row, count: int, gap_ns: int) -> None:
        pass

    def ended(self, row: Row, reason: str) -> None:
        pass

    def state(self, state: EngineState) -> None:
        pass
