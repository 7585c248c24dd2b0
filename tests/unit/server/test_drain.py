"""A drain of a tritonserver that hangs: signals and the deadline are heard."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from conch.server import probe
from conch.server.drain import Drain
from conch.server.settings import Settings
from conch.server.signals import Signals
from conch.server.triton_process import TritonProcess


class Hanging:
    """A tritonserver that never ends; ``asked`` counts what was asked of it in vain."""

    def __init__(self) -> None:
        self.asked = 0
        self.told_to_end = False

    def exit_code(self) -> int | None:
        return None

    def drain(self) -> None:
        self.told_to_end = True


def drain(monkeypatch: pytest.MonkeyPatch, timeout_s: int, on_ask: Callable[[Signals], None]) -> tuple[Hanging, str]:
    """Drain one, with ``on_ask`` for what happens while it is asked to unload a model; what was said."""
    triton, said = Hanging(), []

    def unload(*_: object) -> probe.Answer:
        triton.asked += 1
        on_ask(signals)
        return probe.Answer(0, "timed out")

    monkeypatch.setattr(probe, "unload", unload)
    monkeypatch.setattr(probe, "model_states", lambda *_: None)
    settings = Settings(Path("repository"), Path("run"), drain_timeout_s=timeout_s)
    with Signals() as signals:
        signals.stops.append(signal.SIGINT)
        Drain(settings, cast(TritonProcess, triton), "key", signals, said.append, twins=True).run()
    return triton, said[-1]


def test_a_second_signal_is_heard_while_models_are_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    triton, last = drain(monkeypatch, 30, lambda signals: signals.stops.append(signal.SIGINT))
    assert (triton.asked, triton.told_to_end) == (1, False)
    assert last == "killed; requests in flight are lost"


def test_a_deadline_counts_while_models_are_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    triton, last = drain(monkeypatch, 1, lambda _: time.sleep(0.6))
    assert (triton.asked, triton.told_to_end) == (2, False)
    assert last == "killed after 1 s; requests still in flight are lost"
