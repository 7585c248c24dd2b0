"""Samples of a server while a run goes on, into ``server.jsonl``."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import urlsplit

from conch.contract import (
    DEFAULT_GRPC_PORT,
    DEFAULT_HTTP_PORT,
    DEFAULT_METRICS_PORT,
    GRPC_PORT_VARIABLE,
    HTTP_PORT_VARIABLE,
    METRICS_PORT_VARIABLE,
)
from conch_load.records import SERVER_FILE
from conch_load.server_side import scrape
from conch_load.server_side.names import METRICS, STATISTICS, half_of
from conch_load.server_side.scrape import ScrapeError, Values

INTERVAL_S = 1.0
_END_S = 30.0
_PORTS = (
    (HTTP_PORT_VARIABLE, DEFAULT_HTTP_PORT), (GRPC_PORT_VARIABLE, DEFAULT_GRPC_PORT),
    (METRICS_PORT_VARIABLE, DEFAULT_METRICS_PORT),
)  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Where a server's figures are.

    Attributes:
        metrics_url: of its metrics page; None: it has none.
        statistics_url: of Triton's HTTP port; None: it is not a Triton.
        model: that clients ask.
    """

    metrics_url: str | None
    statistics_url: str | None
    model: str


def sources_of(front: str, target: str, model: str) -> Sources:
    """The usual places, for a target as a run names it.

    Triton's other ports are looked for beside the target only if the target's own port is the usual one (Triton's, or
    what the environment says Conch listens on): otherwise they might be another server's.

    Args:
        front: one of records.FRONTS.
        target: host:port or URL.
        model: that clients ask.
    """
    parts = urlsplit(target if "//" in target else f"http://{target}")
    if front == "openai":
        return Sources(f"{parts.scheme}://{parts.netloc}/metrics", None, model)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    http, grpc, metrics = (int(os.environ.get(name) or port) for name, port in _PORTS)
    usual = parts.port == (grpc if front == "triton-grpc" else http)
    metrics_url = f"http://{host}:{metrics}/metrics" if usual else None
    if front == "triton-grpc":
        return Sources(metrics_url, f"http://{host}:{http}" if usual else None, model)
    return Sources(metrics_url, f"{parts.scheme}://{parts.netloc}", model)


def here(model: str) -> Sources:
    """A Triton on this machine, on the usual ports."""
    return sources_of("triton-grpc", f"127.0.0.1:{os.environ.get(GRPC_PORT_VARIABLE) or DEFAULT_GRPC_PORT}", model)


class Watch:
    """A thread that looks at a server now, every interval, and at the end; use it in a ``with``.

    Run it in a process that does nothing else meanwhile, not inside the load generator. A look that fails is written
    down as such and stops nothing.
    """

    def __init__(self, folder: Path, sources: Sources, interval_s: float = INTERVAL_S) -> None:
        self._path, self._sources, self._interval_s = folder / SERVER_FILE, sources, interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="server-side", daemon=True)
        self._last: Values = {}
        # Names are long and come back every second: each is written once, and has its place as a number from then on.
        self._numbers: dict[str, int] = {}
        # Samples must not jump when the wall clock is set: one look at both clocks, then the steady one.
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def __enter__(self) -> Watch:
        """The first look is taken before this returns."""
        self._file: TextIO = self._path.open("w", encoding="utf-8")
        self._write({"sources": vars(self._sources), "interval_s": self._interval_s, **self._models()})
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The last look is taken before this returns."""
        self._ended.set()
        self._thread.join(_END_S)
        if not self._thread.is_alive():
            self._look()
            self._file.close()

    def _loop(self) -> None:
        due = time.monotonic() + self._interval_s
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._look()
            due = max(due + self._interval_s, time.monotonic())

    def _models(self) -> dict[str, Any]:
        if self._sources.statistics_url is None:
            return {"models": {}}
        try:
            found = scrape.topology(self._sources.statistics_url, self._sources.model)
        except ScrapeError as error:
            return {"models": {}, "error": str(error)}
        return {"models": {name: {"steps": one.steps, "decoupled": one.decoupled} for name, one in found.items()}}

    def _look(self) -> None:
        """One line: what changed since the last, what is gone, what failed. A half that failed stays as it was."""
        at_ns = time.monotonic_ns() + self._offset_ns
        now: Values = {}
        errors = {}
        for half, url, read in (
            (METRICS, self._sources.metrics_url, scrape.metrics),
            (STATISTICS, self._sources.statistics_url, scrape.statistics),
        ):
            try:
                now |= read(url) if url else {}
            except ScrapeError as error:
                errors[half] = str(error)
                now |= {key: value for key, value in self._last.items() if half_of(key) == half}
        new = [key for key in now if key not in self._numbers]
        self._numbers |= {key: len(self._numbers) + place for place, key in enumerate(new)}
        numbers = self._numbers
        changed = {key: value for key, value in now.items() if self._last.get(key) != value}
        told = {
            "at_unix_ns": at_ns,
            "took_ms": round((time.monotonic_ns() + self._offset_ns - at_ns) / 1e6, 3),
            "series": new,
            "changed": {numbers[key]: int(value) if value.is_integer() else value for key, value in changed.items()},
            "gone": [numbers[key] for key in self._last if key not in now],
            "errors": errors,
        }
        self._write({name: value for name, value in told.items() if value or name in ("at_unix_ns", "changed")})
        self._last = now

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._file.flush()
