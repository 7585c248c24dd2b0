"""Which prompts OpenVINO GenAI's prefix cache has: the pipeline does not tell, so its bookkeeping is repeated here.

A mirror, not the thing itself. It follows block_manager.hpp of openvino.genai 2026: blocks of 32 tokens, each known
by all tokens up to its end; looked up once, when a request is added; kept when a request ends, and overwritten when no
free block is left, the one that was taken longest ago first. It may differ from the cache

- for a prompt that is added while an equal one is being computed: the cache shares blocks as they are filled, the
  mirror when the first token is there;
- for a request that was cancelled: the engine may have computed a token more, or a part of the prompt;
- for requests with several sequences: only the full blocks of their prompts are followed;
- after the engine had to take blocks away from running requests because the cache was too small.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 32  # of openvino-genai on a CPU
_ROOT = 0


@dataclass
class _Live:
    """A request in the engine."""

    ids: list[int]  # what is not in blocks yet, from the end of the last block on
    follows_answer: bool
    last_key: int = _ROOT
    blocks: list[tuple[int, int]] = field(default_factory=list)  # key, when it was taken
    begun: bool = False


class PrefixMirror:
    """See the module. Not for several threads.

    Args:
        total_blocks: of the cache; 0: there is no prefix cache, and nothing is counted.

    Attributes:
        query_tokens: prompt tokens that were looked up.
        hit_tokens: those of them that need not be computed again.
    """

    def __init__(self, total_blocks: int) -> None:
        self._total_blocks = total_blocks
        self.query_tokens = self.hit_tokens = 0
        self._clock = itertools.count(1)
        self._live: dict[int, _Live] = {}
        self._in_use: Counter[int] = Counter()  # key -> live requests that hold it
        self._kept: dict[int, int] = {}  # key -> when it was taken
        self._oldest: list[tuple[int, int]] = []  # heap of (when, key); what is not so in _kept is stale

    def add(self, request_id: int, ids: Sequence[int], follows_answer: bool = True) -> None:
        """A request was added to the engine.

        Args:
            request_id: whose.
            ids: its prompt.
            follows_answer: whether its tokens will be told, too.
        """
        if not self._total_blocks:
            return
        live = self._live[request_id] = _Live(list(ids), follows_answer)
        hit_tokens = 0
        while hit_tokens < len(ids):
            block = live.ids[:BLOCK_TOKENS]
            key = hash((live.last_key, *block))
            if len(block) < BLOCK_TOKENS or not self._has(key):
                hit_tokens += self._take_part(live.last_key, block)
                break
            hit_tokens += BLOCK_TOKENS
            self._take(live, key)
        self.query_tokens += len(ids)
        self.hit_tokens += min(hit_tokens, len(ids) - 1)  # the last token is always computed

    def tokens(self, request_id: int, ids: Iterable[int]) -> None:
        """The engine produced tokens, so the prompt and all of them but the last are computed."""
        live = self._live.get(request_id)
        if live is None:
            return
        if live.follows_answer:
            live.ids.extend(ids)
        elif live.begun:
            return
        live.begun = True
        # The last token has come out, and not gone in yet.
        while len(live.ids) - live.follows_answer >= BLOCK_TOKENS:
            self._take(live, hash((live.last_key, *live.ids[:BLOCK_TOKENS])))

    def end(self, request_id: int) -> None:
        """A request has ended or was cancelled: its blocks are free, and keep what they hold until they are needed."""
        live = self._live.pop(request_id, None)
        if live is None:
            return
        if live.begun and live.follows_answer and len(live.ids) > 1:
            live.blocks.append((hash((live.last_key, *live.ids[:-1])), next(self._clock)))
            self._in_use[live.blocks[-1][0]] += 1
        for key, when in live.blocks:
            self._in_use[key] -= 1
            if self._in_use[key] <= 0:
                del self._in_use[key]
                self._kept[key] = when
                heapq.heappush(self._oldest, (when, key))
        if len(self._oldest) > 2 * len(self._kept) + self._total_blocks:  # as a cache that never fills leaves it
            self._oldest = [(when, key) for key, when in self._kept.items()]
            heapq.heapify(self._oldest)

    def settle(self, used_blocks: int) -> None:
        """Forget what was overwritten. To be called before look-ups and before requests end: until then they grow.

        Args:
            used_blocks: that the engine's running requests hold.
        """
        room = max(0, self._total_blocks - used_blocks)
        while len(self._kept) > room:
            when, key = heapq.heappop(self._oldest)
            if self._kept.get(key) == when:
                del self._kept[key]

    def _has(self, key: int) -> bool:
        return key in self._in_use or key in self._kept

    def _take_part(self, last_key: int, block: list[int]) -> int:
        """Tokens of a block that is known only in part. The engine asks for all of them, then for the shortest part."""
        lengths = list(range(1, len(block)))
        if len(block) < BLOCK_TOKENS:
            lengths.insert(0, len(block))
        for tokens in lengths:
            key = hash((last_key, *block[:tokens]))
            if self._has(key):
                self._kept.pop(key, None)  # it is filled up now, and so becomes another one
                return tokens
        return 0

    def _take(self, live: _Live, key: int) -> None:
        """Let the next block of a request be this one."""
        self._kept.pop(key, None)
        self._in_use[key] += 1
        live.blocks.append((key, next(self._clock)))
        live.last_key = key
        del live.ids[:BLOCK_TOKENS]
