"""What every figure means, in which unit, and what other tools call it. The one place for their names.

The names of other tools were read in their sources: aiperf 0.13, genai-perf 0.0.16, guidellm 0.8.1,
``vllm bench serve`` and MLPerf's inference rules. A tool that is missing from a row does not have the figure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Definition:
    """One figure.

    Attributes:
        name: its key in ``summary.json``.
        label: how it is headed in reports.
        unit: ``ms``, ``tokens``, ``share`` or ``1/s``.
        better: which way is better; None where neither is.
        meaning: the definition, one or two sentences.
        elsewhere: tool to the name it has there, with the difference where there is one.
    """

    name: str
    label: str
    unit: str
    better: Literal["lower", "higher"] | None
    meaning: str
    elsewhere: dict[str, str] = field(default_factory=dict)


_METRICS = (
    Definition(
        "ttft_ms", "TTFT, from sending", "ms", "lower",
        "Time to first token: arrival of the first chunk that carries text or tokens, less the time of sending.",
        {
            "aiperf": "time_to_first_token", "genai-perf": "time_to_first_token (counts an empty first response too)",
            "guidellm": "time_to_first_token_ms", "vLLM bench": "ttft_ms (an empty role chunk counts as first)",
            "MLPerf": "TTFT",
        },
    ),
    Definition(
        "ttft_corrected_ms", "TTFT, from when due", "ms", "lower",
        "The same from the moment the request was due by its schedule: a request that could not be sent in time waits "
        "on the clock (corrected for coordinated omission). Open-loop arrivals only; a closed loop has no schedule.",
    ),
    Definition(
        "tpot_ms", "TPOT", "ms", "lower",
        "Time per output token after the first, one figure a request: (end to end − TTFT) / (output tokens − 1). "
        "Needs two tokens in two chunks at least.",
        {
            "aiperf": "inter_token_latency (divides by tokens after the first chunk: see ITL)",
            "genai-perf": "inter_token_latency", "guidellm": "inter_token_latency_ms (its time_per_output_token_ms "
            "includes TTFT: another figure)", "vLLM bench": "tpot_ms", "MLPerf": "TPOT",
        },
    ),
    Definition(
        "itl_ms", "ITL", "ms", "lower",
        "(End to end − TTFT) / (output tokens − tokens of the first chunk), one figure a request. It is TPOT where the "
        "first chunk has one token. Needs the server's count of tokens for each chunk.",
        {"aiperf": "inter_token_latency"},
    ),
    Definition(
        "gap_ms", "Gap between chunks", "ms", "lower",
        "Time between one chunk and the next of the same answer, all gaps of all requests pooled. A chunk may hold "
        "more than one token.",
        {"aiperf": "inter_chunk_latency", "vLLM bench": "itl_ms", "genai-perf": "chunked ITL (in plots alone)"},
    ),
    Definition(
        "longest_gap_ms", "Longest gap", "ms", "lower", "The longest gap between chunks, one figure a request: what a "
        "reader feels as a stall.",
    ),
    Definition(
        "e2e_ms", "End to end, from sending", "ms", "lower",
        "Arrival of the last chunk that carries text or tokens, less the time of sending. What follows without content "
        "(usage, [DONE], an empty final response) does not count.",
        {
            "aiperf": "request_latency", "genai-perf": "request_latency (to the last response, empty or not)",
            "guidellm": "request_latency (to the end of the request)", "vLLM bench": "e2el_ms",
        },
    ),
    Definition(
        "e2e_corrected_ms", "End to end, from when due", "ms", "lower",
        "The same from the moment the request was due by its schedule. Open-loop arrivals only.",
        {"aiperf": "effective_latency (its schedule starts anew after 10 ms of backlog)",
         "guidellm": "request_scheduled_latency"},
    ),
    Definition(
        "start_delay_ms", "Start delay", "ms", "lower",
        "Time of sending less the time the request was due: what the generator itself was late. Open loop only.",
        {"aiperf": "credit_to_start_latency", "guidellm": "request_dispatch_delay",
         "vLLM bench": "client_queue_time"},
    ),
    Definition(
        "final_lag_ms", "Last chunk to end of stream", "ms", "lower",
        "End of the stream less the arrival of the last chunk with content. Not part of end to end.",
    ),
    Definition(
        "prompt_tokens", "Tokens in", "tokens", None, "Prompt tokens of a request, by the model's tokenizer.",
        {"aiperf": "input_sequence_length", "genai-perf": "input_sequence_length", "guidellm": "prompt_token_count"},
    ),
    Definition(
        "output_tokens", "Tokens out", "tokens", None,
        "Tokens of an answer: the server's count, else the sum of its chunks' counts, else the tokenizer's count of "
        "the text, else the number of chunks; counts.tokens_counted_by says how many were counted which way.",
        {"aiperf": "output_sequence_length", "genai-perf": "output_sequence_length",
         "guidellm": "output_token_count"},
    ),
)  # fmt: skip

_RATES = (
    Definition(
        "offered_per_s", "Requests due", "1/s", None,
        "Requests that fell due in the window (open loop) or were sent in it (closed loop), a second.",
        {"vLLM bench": "request_rate", "MLPerf": "scheduled samples per second"},
    ),
    Definition(
        "completed_per_s", "Requests completed", "1/s", "higher", "Good answers that ended in the window, a second.",
        {"aiperf": "request_throughput", "genai-perf": "request_throughput", "guidellm": "requests_per_second",
         "vLLM bench": "request_throughput", "MLPerf": "completed samples per second"},
    ),
    Definition(
        "output_tokens_per_s", "Tokens out", "1/s", "higher",
        "Output tokens that arrived in the window, by the time of their chunks, over the window's length. Includes "
        "tokens of requests that began before the window, so that neither ramp nor drain dilutes it.",
        {
            "aiperf": "output_token_throughput (all tokens over first send to last response)",
            "genai-perf": "output_token_throughput", "guidellm": "output_tokens_per_second",
            "vLLM bench": "output_throughput (all tokens over the whole duration)",
            "MLPerf": "completed tokens per second",
        },
    ),
    Definition(
        "input_tokens_per_s", "Tokens in", "1/s", "higher",
        "Prompt tokens of the requests whose first token arrived in the window, over the window's length.",
        {"vLLM bench": "total_token_throughput less output_throughput", "guidellm": "prompt_tokens_per_second"},
    ),
    Definition(
        "goodput_per_s", "Goodput", "1/s", "higher",
        "Requests that met every limit of the SLO, a second of the window. A missing figure is a miss, an error is a "
        "miss. Open loop: counted from when the request was due.",
        {"aiperf": "goodput", "genai-perf": "goodput", "guidellm": "goodput",
         "vLLM bench": "request_goodput (TPOT counts as 0 for answers of one token)"},
    ),
    Definition(
        "goodput_tokens_per_s", "Goodput in tokens", "1/s", "higher",
        "Output tokens of those requests, a second of the window.",
    ),
)  # fmt: skip

METRICS = {one.name: one for one in _METRICS}
RATES = {one.name: one for one in _RATES}
DEFINITIONS = {**METRICS, **RATES}
TOOLS = ("aiperf", "genai-perf", "guidellm", "vLLM bench", "MLPerf")

CORRECTED = {"ttft_ms": "ttft_corrected_ms", "e2e_ms": "e2e_corrected_ms"}
"""A figure from the time of sending, to the same from the time it was due."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

STALL_FACTOR = 3.0
"""A gap is a stall when it is longer than this many medians of all gaps."""

RULES = {
    "percentile": "The smallest measured value that at least that share of the values do not exceed (nearest rank): "
    "every percentile is a value that was measured. It is left out when there are too few values for a 95 % "
    "interval on both sides: p50 needs 6, p90 36, p95 72, p99 368, p99.9 3,688.",
    "failures": "Percentiles are of requests that succeeded. In the SLO's verdict and in goodput a failed request "
    "counts as one that was too late.",
    "interval": "95 %, and the wider of two at each end: the order-statistic interval (exact for independent values, "
    "any distribution), and one from 20 batch means of the share below the percentile (for requests that "
    "depend on their neighbours; Woodruff 1952). ‘design effect’ is how many requests weigh as one because of it. An "
    "open end means that the run does not bound it. Of rates: from 40 slices of the window, by Newey and West.",
    "warm-up": "Requests sent as warm-up, and then those that MSER-5 (White 1997) cuts, applied to ranks so that only "
    "an unusual beginning is cut, never a bad spell later in the run: the first third of what is cut must differ from "
    "what is left (Mann-Whitney, p < 0.01). When it would cut half of the run, nothing is cut and the report says so.",
    "stationarity": "Mann-Kendall test over 20 batches after the cut, p < 0.01 and a change of 10 % or more from the "
    "first to the last third.",
    "early stopping": "MLPerf's: passed when, were the SLO just missed, so few late requests in so many would have a "
    "probability of 1 % or less; failed by the mirror of it; else more requests are needed, and it says how many. "
    "MLPerf wants 600 s at least besides; that is not asked for here.",
    "little": "Mean number in flight must be the rate times the mean time in the server (Little 1961). The number in "
    "flight is sampled by the generator, apart from the requests' own records.",
}  # fmt: skip

MLPERF_ANCHORS = (
    ("Llama-3.1-8B, server", 2000, 100), ("Llama-3.1-8B, interactive", 500, 30),
    ("Llama-2-70B, conversational", 2000, 200), ("Llama-2-70B, interactive", 450, 40),
    ("Llama-3.1-405B, server", 6000, 175), ("Llama-3.1-405B, interactive", 4500, 80),
    ("Mixtral-8x7B, server", 2000, 200),
)  # fmt: skip
"""MLPerf inference's limits: model and scenario, p99 of TTFT in ms, p99 of TPOT in ms. For reference alone."""
