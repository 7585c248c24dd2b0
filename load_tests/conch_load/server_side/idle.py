"""Whether a server is still at work: what one run left behind must not be in the next one's figures."""

from __future__ import annotations

import time

from conch_load.server_side.names import ENGINES
from conch_load.server_side.scrape import ScrapeError, get, parse

_POLL_S = 0.25


def rows_under_way(metrics_url: str) -> float | None:
    """Rows waiting and running; None where the server does not tell, or is not there."""
    try:
        found = parse(get(metrics_url))
    except (ScrapeError, ValueError):
        return None
    for engine in ENGINES:
        gauges = [engine.gauges[name] for name in ("waiting", "running")]
        values = [value for sample, value in found.values() for one in gauges
                  if sample.name == one.name and one.labels.items() <= sample.labels.items()]  # fmt: skip
        if values:
            return sum(values)
    return None


def wait_until_idle(metrics_url: str | None, most_s: float) -> float | None:
    """Wait until nothing is under way.

    Args:
        metrics_url: of the server; None: there is nobody to ask.
        most_s: no longer than this.

    Returns:
        Rows that were still under way after that time: 0 if it is idle; None if the server does not tell.
    """
    if metrics_url is None:
        return None
    deadline = time.monotonic() + most_s
    while (rows := rows_under_way(metrics_url)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return rows
