"""From the figures of a run to what people read: ``report.html`` and ``report.md``."""

from __future__ import annotations

from conch_load.report.write import write

__all__ = ["write"]
