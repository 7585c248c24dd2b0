"""The requests of a run as columns, ordered by when they were due, with the figures of each request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch_load.analysis.intervals import Floats, Integers
from conch_load.records import RequestRecord

Booleans = NDArray[np.bool_]
NOT_STREAMED = "triton-http"
UNFINISHED = "unfinished"
MISSING = np.nan
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass(frozen=True)
class Columns:
    """One row a request; NaN where a request does not have the figure. All of shape (n,) but the last six.

    Attributes:
        start_s: when it was due, or sent where there is no schedule.
        first_s, last_s: arrival of its first and last chunk.
        final_s: end of its stream.
        ok: it ended, and without an error.
        code: its error's code; "" where there is none.
        counted_by: ``server``, ``chunks``, ``tokenizer`` or ``chunk count``.
        output_differs, prompt_differs: the server's count is not the tokenizer's; False where either is missing.
        gap_ms, gap_owner: all gaps and the row of the request of each; shape (gaps,).
        chunk_s, chunk_amount, chunk_owner: arrival of each chunk, its tokens, and the row of its request; (chunks,).
        first_errors: a message for each code.
    """

    start_s: Floats
    sent_s: Floats
    first_s: Floats
    last_s: Floats
    final_s: Floats
    ttft_ms: Floats
    ttft_corrected_ms: Floats
    e2e_ms: Floats
    e2e_corrected_ms: Floats
    tpot_ms: Floats
    itl_ms: Floats
    longest_gap_ms: Floats
    start_delay_ms: Floats
    final_lag_ms: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    ok: Booleans
    scheduled: Booleans
    warm_up: Booleans
    code: NDArray[Any]
    counted_by: NDArray[Any]
    finish_reason: NDArray[Any]
    output_differs: Booleans
    prompt_differs: Booleans
    output_compared: Booleans
    prompt_compared: Booleans
    gap_ms: Floats
    gap_owner: Integers
    chunk_s: Floats
    chunk_amount: Floats
    chunk_owner: Integers
    first_errors: dict[str, str]

    def __len__(self) -> int:
        return len(self.start_s)

    def gaps_of(self, chosen: Booleans) -> tuple[Floats, Integers]:
        """The gaps of the chosen requests, and each gap's place among them; owners ascend."""
        place = np.cumsum(chosen) - 1
        keep = chosen[self.gap_owner]
        return self.gap_ms[keep], place[self.gap_owner[keep]]


def columns(records: Iterable[RequestRecord]) -> Columns:
    """Make columns of records, which may come in any order."""
    rows: list[dict[str, Any]] = []
    chunks: list[tuple[Integers, Floats]] = []
    errors: dict[str, str] = {}
    for record in records:
        rows.append(_row(record))
        times = np.asarray(record.chunk_ns, dtype=np.int64)
        chunks.append((times, _amounts(record, len(times))))
        code = rows[-1]["code"]
        if code and code not in errors:
            errors[code] = record.error or ""
    order = sorted(range(len(rows)), key=lambda one: (rows[one]["start_s"], rows[one]["index"]))
    parts = [chunks[one] for one in order]
    gaps = [np.diff(times) / _NS_PER_MS for times, _ in parts]
    made = {name: np.array([rows[one][name] for one in order], dtype=kind) for name, kind in _KINDS.items()}
    return Columns(
        **made,
        gap_ms=_joined(gaps), gap_owner=_owners(gaps),
        chunk_s=_joined([times / _NS_PER_S for times, _ in parts]),
        chunk_amount=_joined([amounts for _, amounts in parts]), chunk_owner=_owners([times for times, _ in parts]),
        first_errors=errors,
    )  # fmt: skip


def _joined(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.array([], dtype=np.float64)


def _owners(parts: Sequence[NDArray[Any]]) -> Integers:
    return np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts])


_FLOATS = (
    "start_s", "sent_s", "first_s", "last_s", "final_s", "ttft_ms", "ttft_corrected_ms", "e2e_ms", "e2e_corrected_ms",
    "tpot_ms", "itl_ms", "longest_gap_ms", "start_delay_ms", "final_lag_ms", "prompt_tokens", "output_tokens",
)  # fmt: skip
_FLAGS = ("ok", "scheduled", "warm_up", "output_differs", "prompt_differs", "output_compared", "prompt_compared")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(_FLOATS, np.float64), **dict.fromkeys(_FLAGS, np.bool_),
    **dict.fromkeys(("code", "counted_by", "finish_reason"), np.object_),
}  # fmt: skip


def _row(record: RequestRecord) -> dict[str, Any]:
    due = record.sent_ns if record.intended_ns is None else record.intended_ns
    ended = record.final_ns is not None
    code = record.error_code or ("" if ended else UNFINISHED)
    tokens, counted_by = _tokens(record)
    row = dict.fromkeys(_FLOATS, MISSING) | {
        "index": record.index, "start_s": due / _NS_PER_S, "sent_s": record.sent_ns / _NS_PER_S,
        "prompt_tokens": record.prompt_tokens, "output_tokens": tokens, "ok": not code, "code": code,
        "scheduled": record.intended_ns is not None, "warm_up": record.warm_up, "counted_by": counted_by,
        "finish_reason": record.finish_reason or "",
        "output_compared": None not in (record.server_output_tokens, record.local_output_tokens),
        "prompt_compared": record.server_prompt_tokens is not None,
    }  # fmt: skip
    row["output_differs"] = row["output_compared"] and record.server_output_tokens != record.local_output_tokens
    row["prompt_differs"] = row["prompt_compared"] and record.server_prompt_tokens != record.prompt_tokens
    if record.final_ns is not None:
        row["final_s"] = record.final_ns / _NS_PER_S
    if record.intended_ns is not None:
        row["start_delay_ms"] = (record.sent_ns - record.intended_ns) / _NS_PER_MS
    end = record.chunk_ns[-1] if record.chunk_ns else record.final_ns
    if end is None:
        return row
    _times(row, record, end, tokens)
    return row


def _times(row: dict[str, Any], record: RequestRecord, end_ns: int, tokens: int) -> None:
    """Fill in what follows from the stamps of a request that brought something or ended."""
    row["e2e_ms"] = (end_ns - record.sent_ns) / _NS_PER_MS
    if record.intended_ns is not None:
        row["e2e_corrected_ms"] = (end_ns - record.intended_ns) / _NS_PER_MS
    if not record.chunk_ns:
        return
    first_ns = record.chunk_ns[0]
    row["first_s"], row["last_s"] = first_ns / _NS_PER_S, end_ns / _NS_PER_S
    if record.final_ns is not None:
        row["final_lag_ms"] = (record.final_ns - end_ns) / _NS_PER_MS
    if record.front == NOT_STREAMED:
        return
    row["ttft_ms"] = (first_ns - record.sent_ns) / _NS_PER_MS
    if record.intended_ns is not None:
        row["ttft_corrected_ms"] = (first_ns - record.intended_ns) / _NS_PER_MS
    if len(record.chunk_ns) < 2:
        return
    row["longest_gap_ms"] = float(np.diff(np.asarray(record.chunk_ns, dtype=np.int64)).max()) / _NS_PER_MS
    if tokens > 1:
        row["tpot_ms"] = (end_ns - first_ns) / _NS_PER_MS / (tokens - 1)
    rest = tokens - record.chunk_tokens[0] if record.chunk_tokens else 0
    if rest > 0:
        row["itl_ms"] = (end_ns - first_ns) / _NS_PER_MS / rest


def _tokens(record: RequestRecord) -> tuple[int, str]:
    if record.server_output_tokens is not None:
        return record.server_output_tokens, "server"
    if record.chunk_tokens:
        return sum(record.chunk_tokens), "chunks"
    if record.local_output_tokens is not None:
        return record.local_output_tokens, "tokenizer"
    return len(record.chunk_ns), "chunk count"


def _amounts(record: RequestRecord, chunks: int) -> Floats:
    """Tokens of each chunk; the answer's tokens in equal parts where the server does not say."""
    if len(record.chunk_tokens) == chunks:
        return np.asarray(record.chunk_tokens, dtype=np.float64)
    return np.full(chunks, _tokens(record)[0] / chunks if chunks else 0.0)
