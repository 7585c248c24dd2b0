"""Asks every part of a server, now and then, whether it still answers.

A process that hangs is there, and Triton's ready endpoints say 200 for it. So each stage gets a request that costs
next to nothing: a word to tokenize, an empty answer to decode, and for the engine a prompt of no tokens, which it
refuses at once. Measured, every 5 s: a quarter of a percent of a core, in all processes together.

A stage with a long queue may answer late, too. It counts as silent only if it has executed nothing meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from conch.contract import (
    DETOKENIZER,
    ENGINE,
    INPUT_IDS,
    INPUT_LENGTHS,
    MAX_TOKENS,
    OUTPUT_IDS,
    SEQUENCE_LENGTH,
    TEXT_INPUT,
    TOKENIZER,
    UNSIGNED,
)
from conch.errors import Code
from conch.server import probe
from conch.server.settings import Settings

MISSES = 3  # in a row, each a third of hang_timeout_s: a pause of all processes is one at most
REQUEST_ID = "conch-heartbeat"  # of the requests to the stages


@dataclass(frozen=True)
class Part:
    """Something that may hang.

    Attributes:
        name: of the model; "tritonserver" for the server itself.
        fields: of the request to the model; None: the server's own health is asked.
        is_answer: whether an answer shows that it works.
    """

    name: str
    fields: dict[str, object] | None
    is_answer: Callable[[probe.Answer], bool]


def _ok(answer: probe.Answer) -> bool:
    return answer.status in (200, 404)  # 404: unloaded, by whoever has the key


def _refused(answer: probe.Answer) -> bool:
    return answer.status == 404 or Code.INVALID_ARGUMENT.value in answer.body


# Not asked: the model unary. It may have all its places taken by long answers, and takes nothing in meanwhile.
PARTS = (
    Part("tritonserver", None, lambda answer: answer.status != 0),
    Part(TOKENIZER.name, {TEXT_INPUT.name: "Hi"}, _ok),
    Part(ENGINE.name, {INPUT_IDS.name: [0], INPUT_LENGTHS.name: 0, MAX_TOKENS.engine_name: 1}, _refused),
    Part(DETOKENIZER.name, {OUTPUT_IDS.name: [0], SEQUENCE_LENGTH.name: 0}, _ok),
)
TWIN_PARTS = (Part(UNSIGNED.name, {TEXT_INPUT.name: "Hi"}, _ok),)


class Heartbeat:
    """Watches one server from threads of its own, one for each part.

    Args:
        settings: where it listens, how often it is asked, and how long a part may be silent.
        parts: what to ask.
    """

    def __init__(self, settings: Settings, parts: tuple[Part, ...]) -> None:
        self._settings = settings
        self._closed = threading.Event()
        self._silent: dict[str, str] = {}
        self._parts = parts
        for part in parts:
            threading.Thread(target=self._follow, args=[part], name=f"heartbeat-{part.name}", daemon=True).start()

    def silent(self) -> str:
        """The first part that does not answer any more, and its last words; empty if all do."""
        return next((f"{p.name} ({self._silent[p.name]})" for p in self._parts if p.name in self._silent), "")

    def close(self) -> None:
        """Ask no more. Returns at once."""
        self._closed.set()

    def _follow(self, part: Part) -> None:
        misses, executed = 0, None
        while not self._closed.wait(0 if misses else self._settings.probe_interval_s):
            asked_at = time.monotonic()
            answer = self._ask(part)
            if part.is_answer(answer):
                misses, executed = 0, None
                self._silent.pop(part.name, None)
                continue
            before, executed = executed, self._executed(part)
            misses = misses + 1 if before is None or executed is None or executed == before else 1
            if misses >= MISSES:
                self._silent[part.name] = (answer.body.strip() or f"HTTP {answer.status}")[:200]
            # A wrong answer may come at once: the next question waits for its time all the same.
            self._closed.wait(max(0.0, asked_at + self._timeout_s - time.monotonic()))

    @property
    def _timeout_s(self) -> float:
        return self._settings.hang_timeout_s / MISSES

    def _ask(self, part: Part) -> probe.Answer:
        host, port = self._settings.connect_host, self._settings.http_port
        if part.fields is None:
            return probe.ask(host, port, "GET", "/v2/health/live", timeout_s=self._timeout_s)
        body = json.dumps({"id": REQUEST_ID, **part.fields})
        path = f"/v2/models/{part.name}/generate"
        return probe.ask(host, port, "POST", path, body=body, timeout_s=self._timeout_s)

    def _executed(self, part: Part) -> int | None:
        """How often a model was executed so far; None where that cannot be told."""
        if part.fields is None:
            return None
        answer = probe.ask(
            self._settings.connect_host, self._settings.http_port, "GET", f"/v2/models/{part.name}/stats"
        )
        try:
            return sum(int(model["execution_count"]) for model in json.loads(answer.body)["model_stats"])
        except (ValueError, KeyError, TypeError):
            return None
