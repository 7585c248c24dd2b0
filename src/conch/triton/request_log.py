"""One line in the log for each request, when it is over."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from conch.contract import ENGINE, STREAM
from conch.spec import LogFormat
from conch.text.token_bytes import TokenBytes
from conch.triton.tally import CallRecord, RowRecord

MAX_ID_CHARS = 128
MAX_TEXT_CHARS = 1000
_STDERR = 2  # Triton's own log
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@+-]+")  # needs no quotes


class RequestLog:
    """Writes the lines.

    Args:
        model: name of the spec.
        version: number of the release.
        log_format: text or json; off writes nothing.
        table: to show prompts and answers; None: they are not shown.
        write: takes whole lines.
    """

    def __init__(
        self,
        model: str,
        version: int,
        log_format: LogFormat,
        table: TokenBytes | None = None,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self._model, self._version, self._format, self._table = model, version, log_format, table
        self._write = write or _to_stderr

    def write(self, calls: Iterable[CallRecord]) -> None:
        """Write the lines of requests that are over."""
        if self._format is LogFormat.OFF:
            return
        line = _json_line if self._format is LogFormat.JSON else _text_line
        text = "".join(line(call.ended_ns, self._fields(call)) for call in calls)
        if text:
            self._write(text)

    def _fields(self, record: CallRecord) -> dict[str, Any]:
        """What a line says, in its order; what is not known is left out."""
        call, rows = record.call, record.rows
        fields: dict[str, Any] = {
            "id": call.client_id[:MAX_ID_CHARS] or rows[0].row.request_id,
            "model": self._model,
            "version": self._version,
            "rows": len(call.rows),
            STREAM.name: call.rows[0].params.stream,
            "prompt_tokens": sum(r.row.input_tokens for r in rows),
            "output_tokens": sum(r.output_tokens for r in rows),
            "finish": ",".join(_reasons(rows)),
        }
        if record.code is not None:
            fields["error"] = record.code.value
        fields |= _times(record)
        if self._table is not None:
            fields["prompts"] = [self._text(r.row.prompt_ids) for r in rows]
            fields["answers"] = [self._text(ids) for r in rows for ids in r.answers]
        return fields

    def _text(self, ids: Sequence[int]) -> str:
        assert self._table is not None
        pieces = self._table.pieces
        text = b"".join(pieces[i] for i in ids).decode("utf-8", "replace")
        return text[:MAX_TEXT_CHARS]


def _reasons(rows: Sequence[RowRecord]) -> list[str]:
    """How each answer ended; once where all ended alike."""
    reasons = [answer.ended or r.ended for r in rows for answer in r.row.answers]
    return reasons if len(set(reasons)) > 1 else reasons[:1]


def _times(record: CallRecord) -> dict[str, float]:
    """Milliseconds: of the slowest row to its first token, of all rows together between tokens."""
    rows = [r.row for r in record.rows]
    arrival_ns = min(row.arrival_ns for row in rows)
    begun = [row for row in rows if row.first_token_ns]
    total_ns = max(record.ended_ns - arrival_ns, 0)
    times: dict[str, float] = {}
    if all(row.scheduled_ns for row in rows):
        times["queue_ms"] = _ms(max(row.scheduled_ns for row in rows) - arrival_ns)
    if begun:
        times["ttft_ms"] = _ms(max(row.first_token_ns for row in begun) - arrival_ns)
    gaps = sum(r.output_tokens - 1 for r in record.rows if r.output_tokens and len(r.row.answers) == 1)
    if gaps > 0:
        decode_ns = sum(row.last_token_ns - row.first_token_ns for row in begun if len(row.answers) == 1)
        times["itl_ms"] = _ms(decode_ns / gaps)
    times["total_ms"] = _ms(total_ns)
    if begun and total_ns:
        times["tokens_per_s"] = round(sum(r.output_tokens for r in record.rows) / total_ns * 1e9, 1)
    return times


def _ms(ns: float) -> float:
    return round(max(ns, 0) / 1e6, 2)


def _json_line(ended_ns: int, fields: dict[str, Any]) -> str:
    # ASCII alone: no character in it can end the line or change how a terminal shows it.
    return json.dumps({"time": _time(ended_ns), "event": "request", **fields}) + "\n"


def _text_line(ended_ns: int, fields: dict[str, Any]) -> str:
    words = " ".join(f"{name}={_word(name, value)}" for name, value in fields.items())
    return f"{_time(ended_ns)} {ENGINE.name} INFO request {words}\n"


def _word(name: str, value: Any) -> str:
    """A value in a text line: plain, or quoted as JSON does it. An id without quotes and with # is the engine's."""
    if name == "id" and isinstance(value, int):
        return f"#{value}"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value)


def _time(ns: int) -> str:
    """As in the other lines of the log, but UTC with its sign in it."""
    seconds, rest = divmod(ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 10**6:03d}Z"


def _to_stderr(text: str) -> None:
    """Write whole lines at once, so that no other process writes into them."""
    data = text.encode()
    while data:
        data = data[os.write(_STDERR, data) :]
