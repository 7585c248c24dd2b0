"""One request under way: what a front notes down while it happens, and the record that comes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from conch_load.records import RequestRecord
from conch_load.workloads import Ask

# Codes of our own, beside those of the protocols.
TIMEOUT, CONNECTION, CUT, BAD_RESPONSE = "timeout", "connection", "cut", "bad_response"


@dataclass
class Exchange:
    """Stamps and counts of one request; all times are of :func:`time.monotonic_ns`.

    A front stamps ``sent_ns`` right before the first byte leaves, calls :meth:`chunk` for each response that carries
    text or tokens, sets ``final_ns`` at the end of the stream, and :meth:`fail` when something is wrong. It raises
    nothing for what the server does.
    """

    ask: Ask
    request_id: str
    want_ids: bool = False  # ask for the token ids as well, where the front can
    sent_ns: int = 0
    chunk_ns: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    final_ns: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    token_ids: list[int] | None = None
    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    error_code: str | None = None
    error: str | None = None

    def chunk(self, at_ns: int, text: str, tokens: int | None) -> None:
        """A response with text or tokens has come."""
        self.chunk_ns.append(at_ns)
        self.texts.append(text)
        if tokens is not None:
            self.chunk_tokens.append(tokens)
            self.output_tokens = (self.output_tokens or 0) + tokens

    def fail(self, code: str, text: str) -> None:
        """Something is wrong; the first reason counts."""
        if self.error_code is None:
            self.error_code, self.error = code, " ".join(text.split())[:500]

    def end(self) -> None:
        """The stream is over."""
        if self.final_ns is None:
            self.final_ns = time.monotonic_ns()

    def record(self, *, start_ns: int, due_ns: int | None, front: str, worker: int, warm_up: bool) -> RequestRecord:
        """The record, with times from the run's start.

        Args:
            start_ns: the run's start, by the monotonic clock.
            due_ns: when it was due, from the run's start; None in a closed loop.
        """
        counted = len(self.chunk_tokens) == len(self.chunk_ns)
        return RequestRecord(
            index=self.ask.index, front=front, worker=worker, intended_ns=due_ns, sent_ns=self.sent_ns - start_ns,
            chunk_ns=tuple(at - start_ns for at in self.chunk_ns),
            final_ns=None if self.final_ns is None else self.final_ns - start_ns,
            prompt_tokens=self.ask.prompt_tokens, requested_tokens=self.ask.output_tokens,
            chunk_tokens=tuple(self.chunk_tokens) if counted else (),
            server_prompt_tokens=self.prompt_tokens, server_output_tokens=self.output_tokens,
            local_output_tokens=None if self.token_ids is None else len(self.token_ids),
            finish_reason=self.finish_reason, error_code=self.error_code, error=self.error,
            text="".join(self.texts), request_id=self.request_id, conversation=self.ask.conversation,
            turn=self.ask.turn, warm_up=warm_up,
        )  # fmt: skip
