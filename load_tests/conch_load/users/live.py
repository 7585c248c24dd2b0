"""What the live page shows: a second of figures from each worker, put together by the controller."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conch_load.records import RequestRecord

WINDOW_S = 10  # the page's percentiles are of what ended in so many seconds
HISTORY_S = 1800


@dataclass
class LiveBatch:
    """Requests that ended in one flush of one worker. Times in ms."""

    ttft_ms: list[float] = field(default_factory=list)
    tpot_ms: list[float] = field(default_factory=list)
    e2e_ms: list[float] = field(default_factory=list)
    output_tokens: int = 0
    prompt_tokens: int = 0
    requests: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, record: RequestRecord) -> None:
        """Take in a request that has ended. TPOT is (last - first) / (tokens - 1)."""
        self.requests += 1
        if record.error_code is not None or record.final_ns is None:
            code = record.error_code or "unfinished"
            self.errors[code] = self.errors.get(code, 0) + 1
            return
        tokens = record.server_output_tokens or len(record.chunk_ns)
        self.output_tokens += tokens
        self.prompt_tokens += record.server_prompt_tokens or record.prompt_tokens
        self.e2e_ms.append((record.final_ns - record.sent_ns) / 1e6)
        if record.chunk_ns and record.front != "triton-http":  # there the whole answer comes at once
            self.ttft_ms.append((record.chunk_ns[0] - record.sent_ns) / 1e6)
            if tokens > 1 and len(record.chunk_ns) > 1:
                self.tpot_ms.append((record.chunk_ns[-1] - record.chunk_ns[0]) / 1e6 / (tokens - 1))


class Live:
    """The controller's side: totals, and one point for each second."""

    def __init__(self) -> None:
        self.title = "no run yet"
        self.state = "waiting"
        self.requests = self.output_tokens = 0
        self.errors: Counter[str] = Counter()
        self._batches: dict[int, list[Mapping[str, Any]]] = {}
        self._samples: dict[int, dict[int, Mapping[str, Any]]] = {}
        self._points: deque[dict[str, Any]] = deque(maxlen=HISTORY_S)
        self._last = -1

    def take(self, second: int, worker: int, batch: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
        """What a worker sent in a second of the run."""
        self.requests += batch["requests"]
        self.output_tokens += batch["output_tokens"]
        self.errors.update(batch["errors"])
        self._batches.setdefault(second, []).append(batch)
        if samples:
            self._samples.setdefault(second, {})[worker] = samples[-1]

    def points(self, now: int) -> list[dict[str, Any]]:
        """One point for each second before ``now``: figures of the window that ends there."""
        while self._last < now - 1:
            self._last += 1
            self._points.append(self._point(self._last))
            self._batches.pop(self._last - WINDOW_S, None)
            self._samples.pop(self._last - WINDOW_S, None)
        return list(self._points)

    def _point(self, second: int) -> dict[str, Any]:
        window = [b for s in range(max(0, second - WINDOW_S + 1), second + 1) for b in self._batches.get(s, ())]
        seconds = min(WINDOW_S, second + 1)
        samples = list(self._samples.get(second, self._samples.get(second - 1, {})).values())
        point: dict[str, Any] = {"second": second}
        for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
            values = sorted(value for batch in window for value in batch[name])
            point[name] = {f"p{q}": _percentile(values, q) for q in (50, 95, 99)} if values else None
        point["output_tokens_per_s"] = sum(b["output_tokens"] for b in window) / seconds
        point["requests_per_s"] = sum(b["requests"] for b in window) / seconds
        point["errors_per_s"] = sum(sum(b["errors"].values()) for b in window) / seconds
        point["in_flight"] = sum(s["in_flight"] for s in samples)
        point["loop_lag_ms"] = max((s["loop_lag_ms"] for s in samples), default=0)
        point["cpu_share"] = max((s["cpu_share"] for s in samples), default=0)
        return point


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3)
