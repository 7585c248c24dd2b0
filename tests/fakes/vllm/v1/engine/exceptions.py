"""vllm/v1/engine/exceptions.py."""

from __future__ import annotations


class EngineGenerateError(Exception):
    """A request failed; the engine goes on."""


class EngineDeadError(Exception):
    """The engine core has died."""

    def __init__(self) -> None:
        super().__init__("EngineCore encountered an issue. See stack trace (above) for the root cause.")
