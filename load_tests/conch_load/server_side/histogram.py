"""What a histogram saw over a window, from what its buckets grew by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A quantile as far as buckets tell: it lies between low and high; value is PromQL's straight line between them.

    ``high`` and ``value`` are None where it lies beyond the last bound.
    """

    value: float | None
    low: float
    high: float | None


@dataclass(frozen=True)
class Histogram:
    """Growth of a histogram: its buckets by upper bound, cumulative; sum and number of what it saw."""

    buckets: Mapping[float, float]
    total: float
    count: float

    @property
    def mean(self) -> float | None:
        """None if it saw nothing."""
        return self.total / self.count if self.count else None

    def quantile(self, q: float) -> Bound | None:
        """Where a quantile lies; None if it saw nothing.

        Args:
            q: in (0, 1).
        """
        if not self.count or not self.buckets:
            return None
        low = below = 0.0
        for bound, count in sorted(self.buckets.items()):
            if count >= q * self.count:
                if math.isinf(bound):
                    return Bound(None, low, None)
                within = count - below
                value = low + (bound - low) * (q * self.count - below) / within if within else low
                return Bound(value, low, bound)
            low, below = bound, count
        return Bound(None, low, None)  # buckets were read a moment before the count
