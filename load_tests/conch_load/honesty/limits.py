"""Was the generator the limit? And did what was to be sent get sent?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from conch_load.config import RunConfig
from conch_load.honesty.probe import LATE_START_NS
from conch_load.records import GeneratorSample, RequestRecord

SHARE_OF_SECONDS = 0.05  # bad seconds that are put down to the machine, not to the generator
ACHIEVED_SHARE = 0.99


def check_generator(
    config: RunConfig, samples: Sequence[GeneratorSample], records: Sequence[RequestRecord]
) -> tuple[dict[str, Any], list[str]]:
    """The verdict on the generator: figures, and the reasons why the run is invalid.

    Rules, over the seconds of the measured part of each worker: no more than 5 % of them with a loop lag above
    ``max_loop_lag_ms``; no more than 5 % with a processor share above ``max_cpu_share``; open loop: no more than
    ``max_late_share`` of the requests sent over 10 ms after they were due.
    """
    seconds = [s for s in samples if config.warm_up_ns < s.at_ns <= config.end_ns + 10**9]
    if not seconds:
        return {"seconds": 0}, ["the generator left no samples of itself for the measured part"]
    lags = sorted(s.loop_lag_ms for s in seconds)
    shares = sorted(s.cpu_share for s in seconds)
    laggy = sum(lag > config.max_loop_lag_ms for lag in lags) / len(lags)
    busy = sum(share > config.max_cpu_share for share in shares) / len(shares)
    due = [r for r in records if r.intended_ns is not None and not r.warm_up]
    late = sum(r.sent_ns - (r.intended_ns or 0) > LATE_START_NS for r in due)
    figures = {
        "seconds": len(seconds), "loop_lag_ms_p50": _at(lags, 0.5), "loop_lag_ms_p99": _at(lags, 0.99),
        "loop_lag_ms_max": lags[-1], "laggy_seconds_share": round(laggy, 4), "cpu_share_p50": _at(shares, 0.5),
        "cpu_share_max": shares[-1], "busy_seconds_share": round(busy, 4), "late_starts": late,
        "late_share": round(late / len(due), 5) if due else 0.0,
    }  # fmt: skip
    reasons = []
    if laggy > SHARE_OF_SECONDS:
        reasons.append(f"the generator's event loop was more than {config.max_loop_lag_ms:g} ms late in {laggy:.0%} of "
                       "the seconds: its stamps cannot be trusted")  # fmt: skip
    if busy > SHARE_OF_SECONDS:
        reasons.append(f"the generator used more than {config.max_cpu_share:.0%} of a core in {busy:.0%} of the "
                       "seconds: more workers, or a machine of its own")  # fmt: skip
    if due and late / len(due) > config.max_late_share:
        reasons.append(f"{late} of {len(due)} requests ({late / len(due):.1%}) were sent more than "
                       f"{LATE_START_NS / 1e6:g} ms after they were due")  # fmt: skip
    return figures, reasons


def check_requests(config: RunConfig, records: Sequence[RequestRecord], due: int) -> tuple[dict[str, Any], list[str]]:
    """Whether anything was measured, and all of it sent. Errors of the server are figures, not reasons."""
    measured = [r for r in records if not r.warm_up]
    done = [r for r in measured if r.error_code is None and r.final_ns is not None]
    errors = Counter(r.error_code or "unfinished" for r in measured if r.error_code or r.final_ns is None)
    figures: dict[str, Any] = {
        "sent": len(records), "measured": len(measured), "succeeded": len(done), "errors": dict(errors)
    }  # fmt: skip
    reasons = []
    if not done:
        reasons.append("no request of the measured part succeeded")
    if due:
        figures["due"] = due
        if len(records) < ACHIEVED_SHARE * due:
            reasons.append(f"only {len(records)} of {due} requests that were due were sent")
    return figures, reasons


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
