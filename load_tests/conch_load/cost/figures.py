"""A number that knows where it comes from: an input, and whose, or computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number of a cost report.

    Attributes:
        value: the number; infinite where there is no such value (a break-even that is never reached).
        unit: of the value.
        source: of an input, whose it is; empty for what was computed here.
    """

    value: float
    unit: str
    source: str = ""

    @property
    def is_input(self) -> bool:
        """Whether it was given, not computed."""
        return bool(self.source)

    def as_json(self) -> dict[str, Any]:
        """Value (null where there is none), unit, and where it comes from."""
        value = self.value if math.isfinite(self.value) else None
        kind = {"origin": "input", "source": self.source} if self.is_input else {"origin": "computed"}
        return {"value": value, "unit": self.unit, **kind}


def computed(value: float, unit: str) -> Figure:
    """A number that follows from others."""
    return Figure(value, unit)
