"""How fast an engine's answers have come, and so how long one takes at least."""

from __future__ import annotations

import time
from dataclasses import dataclass

from conch.engines.base import Tokens
from conch.sampling import SamplingParams

_FEW_TOKENS = 8  # an answer shorter than that says little
_FORGET = 1.05  # how much slower the fastest pace is held for with every answer; a wrong one would else stay for ever


@dataclass
class Course:
    """How far an answer has come.

    Attributes:
        first_s: when its first tokens came; 0: not yet.
        later_tokens: those that came after.
    """

    first_s: float = 0.0
    later_tokens: int = 0


class Pace:
    """The fastest pace that an answer has had of late: a bound, and no mean, since what it says is refused."""

    def __init__(self) -> None:
        self._token_s = 0.0  # 0: nothing is known

    def tokens(self, course: Course, params: SamplingParams, event: Tokens) -> None:
        """Follow an answer.

        Args:
            course: of the request that ``event`` is of.
            params: its controls.
            event: its next tokens.
        """
        if params.num_sequences > 1 or params.beam_width > 1:
            return  # their tokens come all at once
        if course.first_s == 0:
            course.first_s = time.monotonic()
            return
        course.later_tokens += len(event.ids)
        if event.finish_reason is not None and course.later_tokens >= _FEW_TOKENS:
            token_s = (time.monotonic() - course.first_s) / course.later_tokens
            self._token_s = min(token_s, self._token_s * _FORGET) if self._token_s else token_s

    def least_s(self, params: SamplingParams) -> float:
        """What an answer takes at least from its first token on; 0 where nothing is known."""
        return (least_tokens(params) - 1) * self._token_s


def least_tokens(params: SamplingParams) -> int:
    """Tokens before which an answer cannot end."""
    if params.stop_words:
        return 1
    if not params.end_ids and params.guide is None:
        return params.max_tokens
    return max(1, params.min_tokens)
