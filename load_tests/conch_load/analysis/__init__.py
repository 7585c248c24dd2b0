"""From the records of a run to its figures."""

from __future__ import annotations

from conch_load.analysis.summarize import summarize
from conch_load.analysis.summary import Summary, read_summary

__all__ = ["Summary", "read_summary", "summarize"]
