"""Every metric of the engine: name, kind, meaning. The names are vLLM's, with ``conch_`` where it writes ``vllm:``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from conch.contract import FINISH_REASONS
from conch.errors import Code

PREFIX = "conch_"
# On every series: name of the spec, number of the release, and the process that counts. The last one keeps the series
# of a release that is loaded again apart from those that are about to go (docs/adr/0007-metrics.md).
MODEL_LABEL, VERSION_LABEL, PROCESS_LABEL = "model", "version", "pid"
FAILED = "error"  # how a row ended, beside FINISH_REASONS

_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_GAP_SECONDS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
_SEQUENCES = (1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0)


class Kind(str, Enum):
    """What PromQL may do with a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: with prefix; of a histogram: without _bucket, _sum and _count.
        kind: see there.
        doc: one sentence.
        vllm: vLLM's name for it; empty where it has none.
        label: of a counter that is kept for several values; empty: for one.
        values: of the label, all of them, so that each series begins at 0.
        bounds: of a histogram: upper bounds of its buckets, in the unit that the name says; without the infinite one.
        frequent: of a histogram: it gets values more often than once a row, so it is made of gauges
            (docs/adr/0007-metrics.md).
    """

    name: str
    kind: Kind
    doc: str
    vllm: str = ""
    label: str = ""
    values: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    frequent: bool = False


def _metric(kind: Kind, name: str, doc: str, *, ours: bool = False, **more: object) -> MetricSpec:
    return MetricSpec(PREFIX + name, kind, doc, "" if ours else f"vllm:{name}", **more)  # type: ignore[arg-type]


WAITING = _metric(Kind.GAUGE, "num_requests_waiting", "Rows in the line in front of the engine.")
RUNNING = _metric(Kind.GAUGE, "num_requests_running", "Rows in the engine.")
KV_USAGE = _metric(Kind.GAUGE, "kv_cache_usage_perc", "Share of the KV cache's blocks in use; 1 is all.")
REQUESTS = _metric(
    Kind.COUNTER, "request_success_total", "Rows that ended, by how; error is a failure.",
    label="finished_reason", values=(*FINISH_REASONS, FAILED),
)  # fmt: skip
ERRORS = _metric(
    Kind.COUNTER, "request_errors_total", "Rows that ended with an error, by its code.",
    ours=True, label="code", values=tuple(c.value for c in Code if c is not Code.CANCELLED),
)  # fmt: skip
PROMPT_TOKENS = _metric(Kind.COUNTER, "prompt_tokens_total", "Prompt tokens of rows that got a first token.")
OUTPUT_TOKENS = _metric(Kind.COUNTER, "generation_tokens_total", "Tokens that the engine generated.")
PREFIX_QUERIES = _metric(
    Kind.COUNTER, "prefix_cache_queries_total", "Prompt tokens that were looked up in the prefix cache."
)
PREFIX_HITS = _metric(Kind.COUNTER, "prefix_cache_hits_total", "Prompt tokens that were found in the prefix cache.")
TTFT = _metric(
    Kind.HISTOGRAM, "time_to_first_token_seconds", "From a row's arrival at the engine to its first token.",
    bounds=_SECONDS,
)  # fmt: skip
INTER_TOKEN = _metric(
    Kind.HISTOGRAM, "inter_token_latency_seconds", "Time between the tokens of a row, one value each.",
    bounds=_GAP_SECONDS, frequent=True,
)  # fmt: skip
QUEUE_TIME = _metric(
    Kind.HISTOGRAM, "request_queue_time_seconds", "Time in the line in front of the engine.", bounds=_SECONDS
)
PREFILL_TIME = _metric(
    Kind.HISTOGRAM, "request_prefill_time_seconds", "From leaving the line to the first token.", bounds=_SECONDS
)
DECODE_TIME = _metric(
    Kind.HISTOGRAM, "request_decode_time_seconds", "From the first token to the last one.", bounds=_SECONDS
)
E2E_TIME = _metric(
    Kind.HISTOGRAM, "e2e_request_latency_seconds", "From a row's arrival at the engine to its end.", bounds=_SECONDS
)
REQUEST_PROMPT = _metric(Kind.HISTOGRAM, "request_prompt_tokens", "Prompt tokens of a row.", bounds=_TOKENS)
REQUEST_OUTPUT = _metric(
    Kind.HISTOGRAM, "request_generation_tokens", "Tokens that the engine generated for a row.", bounds=_TOKENS
)
BATCH_SIZE = _metric(
    Kind.HISTOGRAM, "iteration_batch_size", "Rows that got tokens in one step of the engine.",
    ours=True, bounds=_SEQUENCES, frequent=True,
)  # fmt: skip

GAUGES = (WAITING, RUNNING, KV_USAGE)
COUNTERS = (REQUESTS, ERRORS, PROMPT_TOKENS, OUTPUT_TOKENS, PREFIX_QUERIES, PREFIX_HITS)
HISTOGRAMS = (
    TTFT, INTER_TOKEN, QUEUE_TIME, PREFILL_TIME, DECODE_TIME, E2E_TIME, REQUEST_PROMPT, REQUEST_OUTPUT, BATCH_SIZE,
)  # fmt: skip
METRICS = (*GAUGES, *COUNTERS, *HISTOGRAMS)
