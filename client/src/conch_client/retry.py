"""When to try again, and how long all tries together may take."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

from conch_client.errors import ConchClientError, DeadlineExceededError, InvalidArgumentError

_FOREVER_S = 1e6  # sockets count milliseconds in 31 bits, and gRPC has a limit too


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with jitter, for errors that are retryable. Never after a token was seen.

    A server whose line is full says how long to wait (``retry_after_s`` of the error): that comes on top, whatever
    max_backoff_s is, as long as the deadline allows.

    Attributes:
        max_attempts: tries in all; 1 is no retry.
        initial_backoff_s: longest wait after the first try; doubles with each try.
        max_backoff_s: longest wait at all.
    """

    max_attempts: int = 3
    initial_backoff_s: float = 0.2
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidArgumentError(f"max_attempts must be >= 1, got {self.max_attempts}")
        if self.initial_backoff_s < 0 or self.max_backoff_s < 0:
            raise InvalidArgumentError("initial_backoff_s and max_backoff_s must be >= 0")

    def delay_s(self, attempt: int) -> float:
        """Wait after try number ``attempt`` (from 1): half of it fixed, half of it random."""
        longest = min(self.max_backoff_s, self.initial_backoff_s * 2.0 ** min(attempt - 1, 30))
        return longest * random.uniform(0.5, 1.0)


class Deadline:
    """The moment when a request is given up.

    Args:
        timeout_s: seconds from now; None, infinity or anything beyond 10^6 (11 days): never.

    Raises:
        InvalidArgumentError: not a number > 0.
    """

    def __init__(self, timeout_s: float | None) -> None:
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidArgumentError(f"timeout_s must be > 0, got {timeout_s}")
        self.timeout_s = math.inf if timeout_s is None else timeout_s
        self._end_s = math.inf if self.timeout_s > _FOREVER_S else time.monotonic() + self.timeout_s

    def remaining_s(self) -> float | None:
        """Seconds left, None without a deadline.

        Raises:
            DeadlineExceededError: none are left.
        """
        if self._end_s == math.inf:
            return None
        left = self._end_s - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceededError:
        """The error to raise when time is up."""
        return DeadlineExceededError(f"no full answer within timeout_s = {self.timeout_s:g}")

    def delay_before_retry_s(self, error: ConchClientError, attempt: int, retry: Retry) -> float | None:
        """How long to wait before the next try, or None if there must be none."""
        if not error.retryable or attempt >= retry.max_attempts:
            return None
        delay = retry.delay_s(attempt) + (error.retry_after_s or 0.0)
        return delay if time.monotonic() + delay < self._end_s else None
