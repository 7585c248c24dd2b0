"""Greedy answers under load, compared with the answers to the same requests alone.

Batching changes the order of sums, so greedy answers may differ where the model is undecided, unless the server is in
deterministic mode. Then a difference is a fault; else the rate is reported.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from conch_load.config import TRITON_FRONTS, RunConfig
from conch_load.records import RequestRecord
from conch_load.server_side.idle import wait_until_idle
from conch_load.users.exchange import Exchange

if TYPE_CHECKING:
    from conch_load.users.base import Front
    from conch_load.users.prepare import Prepared

_KEPT = 256
_BUDGET_S = 60
_IDLE_S = 20  # for what the run left under way


class Sample:
    """Answers spread evenly over a run of unknown length: when it is full, every second one goes."""

    def __init__(self) -> None:
        self._step, self._seen = 1, 0
        self.records: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        """Take a record, or not."""
        if self._seen % self._step == 0:
            self.records.append(record)
            if len(self.records) >= _KEPT:
                self.records = self.records[::2]
                self._step *= 2
        self._seen += 1

    def pick(self, count: int) -> list[RequestRecord]:
        """At most ``count`` of them, evenly spread."""
        if count >= len(self.records):
            return list(self.records)
        return [self.records[i * len(self.records) // count] for i in range(count)]


def ask_alone(config: RunConfig, prepared: Prepared, front: Front, sample: Sample, run_id: str) -> dict[str, Any]:
    """Ask some requests again, one after the other, with their token ids.

    Returns:
        ``asked``, ``same``, ``deterministic``, ``differing`` (the indexes), ``errors`` (their texts), and for Triton
        what the ids say: ``ids_checked`` answers of which ``ids_wrong`` had another number of ids than tokens counted,
        or ids whose text is not the text that came.
    """
    from conch_load.run import server_sources
    from conch_load.users.base import send_within  # which needs gevent; the rest of this module does not

    found: dict[str, Any] = {
        "asked": 0, "same": 0, "deterministic": prepared.deterministic, "differing": [], "errors": [],
        "ids_checked": 0, "ids_wrong": [],
    }  # fmt: skip
    wait_until_idle(server_sources(config).metrics_url, _IDLE_S)
    until = time.monotonic() + _BUDGET_S
    for record in sample.pick(config.check_answers):
        if time.monotonic() > until:
            break
        want_ids = config.front in TRITON_FRONTS
        exchange = Exchange(prepared.workload.ask(record.index), f"{run_id}-{record.index}-alone", want_ids)
        send_within(front, exchange, config.timeout_s)
        if exchange.error_code is not None:
            found["errors"].append(f"{exchange.error_code}: {exchange.error}")
            continue
        text = "".join(exchange.texts)
        found["asked"] += 1
        found["same"] += text == record.text
        if text != record.text:
            found["differing"].append(record.index)
        if exchange.token_ids is not None:
            found["ids_checked"] += 1
            if not _ids_fit(exchange, prepared, text):
                found["ids_wrong"].append(record.index)
    return found


def check_answers(found: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """Figures, and the reasons why the run is invalid.

    They are: in deterministic mode differences, and that nothing could be compared; ids that do not fit. Requests that
    failed alone are among the figures as a warning.

    Args:
        found: of :func:`ask_alone`; None: nothing was asked.
    """
    if not found:
        return {"asked": 0}, []
    found = dict(found)
    errors = found.get("errors") or ()
    if errors:
        found["warnings"] = [f"{len(errors)} answers could not be asked for again alone: {errors[0]}"]
    figures = {**found, "same_share": found["same"] / found["asked"] if found.get("asked") else None}
    reasons = []
    if found.get("deterministic") and found.get("differing"):
        reasons.append(
            f"{len(found['differing'])} of {found['asked']} greedy answers under load differ from those alone, "
            "from a server in deterministic mode"
        )
    if found.get("deterministic") and errors and not found.get("asked"):
        reasons.append(f"a server in deterministic mode gave no answer to compare: all {len(errors)} requests alone "
                       "failed")  # fmt: skip
    if found.get("ids_wrong"):
        reasons.append(
            f"{len(found['ids_wrong'])} of {found['ids_checked']} answers asked for alone have token ids that do not "
            "fit their count or their text"
        )
    return figures, reasons


def _ids_fit(exchange: Exchange, prepared: Prepared, text: str) -> bool:
    ids = exchange.token_ids
    assert ids is not None
    return len(ids) == exchange.output_tokens and prepared.tokens.decode(ids).strip() == text.strip()
