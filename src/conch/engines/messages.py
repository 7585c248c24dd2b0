"""What an engine's process and its parent say to each other; pickled, over a socket that nobody else holds."""

from __future__ import annotations

from dataclasses import dataclass

from conch.engines.base import Event, GenerationRequest
from conch.errors import ConchError


@dataclass(frozen=True)
class Started:
    """The engine is loaded, or, with an error, cannot be."""

    error: ConchError | None


@dataclass(frozen=True)
class Step:
    """Everything that one step produced."""

    events: list[Event]


@dataclass(frozen=True)
class Cancel:
    """Give a request up."""

    request_id: int


Command = GenerationRequest | Cancel
Message = Started | Step
