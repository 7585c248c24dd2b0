"""What the stub does: its pace, and the faults that it has on purpose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Behaviour:
    """Pace and faults.

    Attributes:
        ttft_ms, itl_ms: from a request's last byte to its first token, and from token to token.
        fail_every: each so many-th request is refused; 0 none.
        cut_every: each so many-th stream breaks off in its middle, without an end.
        miscount_every: each so many-th answer says one token too many with its last piece.
        stall_at_s, stall_s: nothing is sent for so long, that long after the first request.
        role_chunk: OpenAI chat: a piece without text before the model has begun, as some servers send.
    """

    ttft_ms: float = 100.0
    itl_ms: float = 20.0
    fail_every: int = 0
    cut_every: int = 0
    miscount_every: int = 0
    stall_at_s: float = 0.0
    stall_s: float = 0.0
    role_chunk: bool = True

    def fails(self, number: int) -> bool:
        """Whether request ``number`` (from 1) is refused."""
        return _hit(number, self.fail_every)

    def cuts(self, number: int) -> bool:
        """Whether its stream breaks off."""
        return _hit(number, self.cut_every)

    def miscounts(self, number: int) -> bool:
        """Whether its count is wrong."""
        return _hit(number, self.miscount_every)

    def shifted(self, due_s: float, first_request_s: float) -> float:
        """When what is due at ``due_s`` is sent: not within the stall, but at its end."""
        begin = first_request_s + self.stall_at_s
        return begin + self.stall_s if self.stall_s and begin <= due_s < begin + self.stall_s else due_s


def _hit(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
