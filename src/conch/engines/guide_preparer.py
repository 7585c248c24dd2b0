"""Compiles guides inside the engine's process while the engine computes, so that no step waits for a guide.

A pipeline compiles the guide of a request in the step that computes its first token, and everybody in the batch
waits: two seconds for a string of at most 200 characters. But what was compiled is kept by the tokenizer, for every
pipeline that has it. So a thread compiles each new guide over a model of nothing with the engine's tokenizer, and the
engine takes the request when that is done.

GenAI notes how long a compilation took without a lock. So the two never do it at once: requests are handed over
between compilations, and the next compilation waits until each of them has had its first token.
"""

from __future__ import annotations

import threading
from typing import Any

from conch.engines.base import GenerationRequest
from conch.engines.guide_compiler import GuideCompiler, plain_reason, refusal
from conch.engines.guide_model import GuideVocabulary
from conch.errors import ConchError
from conch.sampling import Guide

MAX_COMPILED = 300  # guides that are kept, one or two MB each


class GuidePreparer:
    """Requests whose guides are being compiled.

    Args:
        vocabulary: of ``tokenizer``.
        tokenizer: of the engine's pipeline.
    """

    def __init__(self, vocabulary: GuideVocabulary, tokenizer: Any) -> None:
        self._vocabulary, self._tokenizer = vocabulary, tokenizer
        self._compiler: GuideCompiler | None = None
        self._changed = threading.Condition()  # of all below
        self._waiting: dict[int, tuple[GenerationRequest, Guide]] = {}
        self._outcomes: dict[Guide, str] = {}  # why not; empty if compiled
        self._compiling = False
        self._held: set[int] = set()  # handed over, without a first token
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is here."""
        return bool(self._waiting)

    def add(self, request: GenerationRequest, guide: Guide) -> None:
        """Take a request that has a guide."""
        with self._changed:
            self._waiting[request.request_id] = request, guide
            if self._thread is None:
                self._thread = threading.Thread(target=self._compile_all, name="guides", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drop(self, request_id: int) -> None:
        """Forget a request that was not handed over."""
        with self._changed:
            self._waiting.pop(request_id, None)

    def begun(self, request_id: int) -> None:
        """A request has had its first token, or has ended."""
        if request_id in self._held:
            with self._changed:
                self._held.discard(request_id)
                if not self._held and len(self._outcomes) >= MAX_COMPILED and self._compiler is not None:
                    self._compiler.forget()  # a few milliseconds; nothing is compiled meanwhile
                    self._outcomes.clear()
                self._changed.notify_all()

    def take(self, wait_s: float) -> list[tuple[GenerationRequest, Guide, ConchError | None]]:
        """Requests that are ready for the pipeline, or refused.

        Args:
            wait_s: how long to wait if there are none.
        """
        if not self._waiting:
            return []  # most of the time
        with self._changed:
            if wait_s and not self._ready():
                self._changed.wait(wait_s)
            taken: list[tuple[GenerationRequest, Guide, ConchError | None]] = []
            for request_id in self._ready():
                request, guide = self._waiting.pop(request_id)
                reason = self._outcomes[guide]
                taken.append((request, guide, refusal(request.params, reason) if reason else None))
                if not reason:
                    self._held.add(request_id)
            self._changed.notify_all()
            return taken

    def _ready(self) -> list[int]:
        if self._compiling:
            return []
        return [request_id for request_id, (_, guide) in self._waiting.items() if guide in self._outcomes]

    def _next(self) -> Guide | None:
        """The guide to compile now."""
        if self._held or self._ready():
            return None
        return next((guide for _, guide in self._waiting.values()), None)

    def _compile_all(self) -> None:
        while True:
            with self._changed:
                while (guide := self._next()) is None:
                    self._changed.wait()
                self._compiling = True
            reason = self._compile(guide)
            with self._changed:
                self._compiling = False
                self._outcomes[guide] = reason
                self._changed.notify_all()

    def _compile(self, guide: Guide) -> str:
        try:
            if self._compiler is None:
                self._compiler = GuideCompiler(self._vocabulary, self._tokenizer)
            self._compiler.compile(guide)
        except Exception as error:
            return plain_reason(error)
        return ""

