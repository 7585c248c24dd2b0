"""Was the generator the limit? And did what was to be sent get sent?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from conch_load.config import RunConfig
from conch_load.honesty.probe import LATE_START_NS
from conch_load.records import GeneratorSample, RequestRecord

SHARE_OF_SECONDS = 0.05  # bad seconds that are put down to the machine, not to the generator
ACHIEVED_SHARE = 0.99
_SILENT_NS = 2 * 10**9  # the last sample of a worker may be so much before the end
GENERATOR, LATE = "the generator's", "were sent more than"  # what reasons of this kind say; see limited


def check_generator(
    config: RunConfig, samples: Sequence[GeneratorSample], records: Sequence[RequestRecord]
) -> tuple[dict[str, Any], list[str]]:
    """The verdict on the generator: figures, and the reasons why the run is invalid.

    Rules, over the measured part, of each worker by itself: no more than 5 % of the time with a loop lag above
    ``max_loop_lag_ms``; no more than 5 % with a processor share above ``max_cpu_share``; samples from every worker;
    open loop: no more than ``max_late_share`` of the requests sent over 10 ms after they were due. A sample stands for
    the time since the worker's last one: a loop that is blocked for ten seconds leaves one sample, not ten.
    """
    last_ns = max([s.at_ns for s in samples] + [r.sent_ns for r in records], default=0)
    until_ns = min(config.end_ns, last_ns)
    workers = sorted({s.worker for s in samples})
    spans = {worker: _spans([s for s in samples if s.worker == worker], config.warm_up_ns, until_ns)
             for worker in workers}  # fmt: skip
    spans = {worker: found for worker, found in spans.items() if found}
    if not spans:
        return {"seconds": 0}, ["the generator left no samples of itself for the measured part"]
    seconds = [s for found in spans.values() for s, _ in found]
    lags = sorted(s.loop_lag_ms for s in seconds)
    shares = sorted(s.cpu_share for s in seconds)
    length_ns = max(1, until_ns - config.warm_up_ns)
    late_ns = {who: _time(found, lambda s: s.loop_lag_ms > config.max_loop_lag_ms) + _silent_ns(found, length_ns)
               for who, found in spans.items()}  # fmt: skip
    laggy, laggy_worker = max((late / length_ns, who) for who, late in late_ns.items())
    busy, busy_worker = max(
        (_time(found, lambda s: s.cpu_share > config.max_cpu_share) / length_ns, who) for who, found in spans.items()
    )
    due = [r for r in records if r.intended_ns is not None and not r.warm_up]
    late = sum(r.sent_ns - (r.intended_ns or 0) > LATE_START_NS for r in due)
    figures = {
        "seconds": len(seconds), "loop_lag_ms_p50": _at(lags, 0.5), "loop_lag_ms_p99": _at(lags, 0.99),
        "loop_lag_ms_max": lags[-1], "laggy_seconds_share": round(laggy, 4), "cpu_share_p50": _at(shares, 0.5),
        "cpu_share_max": shares[-1], "busy_seconds_share": round(busy, 4), "late_starts": late,
        "late_share": round(late / len(due), 5) if due else 0.0,
    }  # fmt: skip
    reasons = []
    # In whole percents: a sample is a few milliseconds longer than its second.
    if round(laggy, 2) > SHARE_OF_SECONDS:
        reasons.append(f"{GENERATOR} event loop was more than {config.max_loop_lag_ms:g} ms late in {laggy:.0%} of "
                       f"the time of worker {laggy_worker}: its stamps cannot be trusted")  # fmt: skip
    if round(busy, 2) > SHARE_OF_SECONDS:
        reasons.append(f"{GENERATOR} worker {busy_worker} used more than {config.max_cpu_share:.0%} of a core in "
                       f"{busy:.0%} of the time: more workers, or a machine of its own")  # fmt: skip
    if len(spans) < config.processes:
        reasons.append(f"only {len(spans)} of {config.processes} workers left samples of themselves for the measured "
                       "part")  # fmt: skip
    if due and late / len(due) > config.max_late_share:
        reasons.append(f"{late} of {len(due)} requests ({late / len(due):.1%}) {LATE} "
                       f"{LATE_START_NS / 1e6:g} ms after they were due")  # fmt: skip
    return figures, reasons


def limited(reason: str) -> bool:
    """Whether a reason of an invalid run says that the generator was the limit: its latencies are then too long."""
    return reason.startswith(GENERATOR) or LATE in reason


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


def _spans(samples: Sequence[GeneratorSample], from_ns: int, until_ns: int) -> list[tuple[GeneratorSample, int]]:
    """A worker's samples, each with how much of the measured part it stands for."""
    found, before_ns = [], 0
    for one in sorted(samples, key=lambda s: s.at_ns):
        span_ns = min(one.at_ns, until_ns) - max(before_ns, from_ns)
        before_ns = one.at_ns
        if span_ns > 0:
            found.append((one, span_ns))
    return found


def _time(found: Sequence[tuple[GeneratorSample, int]], bad: Callable[[GeneratorSample], bool]) -> int:
    return sum(span_ns for one, span_ns in found if bad(one))


def _silent_ns(found: Sequence[tuple[GeneratorSample, int]], length_ns: int) -> int:
    """How long a worker left no sample before the end: it was blocked, or is gone."""
    silent_ns = length_ns - sum(span_ns for _, span_ns in found)
    return silent_ns if silent_ns > _SILENT_NS else 0


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
