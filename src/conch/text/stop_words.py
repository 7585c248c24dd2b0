"""Stop words, matched on text: across tokens and chunks, several at once, inside what a token carries.

The rule does not depend on how a text is cut into tokens: the answer ends at the first character at which some stop
word is complete, and is cut before that stop word; if several end at that character, before the longest.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from conch.text.token_bytes import TokenBytes


@dataclass(frozen=True)
class Release:
    """What may be sent after a feed.

    Attributes:
        ids: token ids to send now.
        trim_chars: characters to cut from the end of their text.
        stopped: a stop word was found; the answer is over.
    """

    ids: list[int]
    trim_chars: int = 0
    stopped: bool = False


class StopMatcher:
    """Holds back the tokens of one answer that may belong to a stop word, until it is clear whether they do.

    Args:
        table: bytes of every token.
        words: stop words, none of them empty, as text.
    """

    def __init__(self, table: TokenBytes, words: Sequence[str]) -> None:
        self._table = table
        self._words = tuple(words)
        self._longest = max(map(len, words))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False
        self._tail = ""  # the last characters of the text: enough to find a stop word that ends in what comes next
        self._chars = 0  # characters of the text so far
        self._released = 0  # characters up to the end of the last token that was released
        self._held: list[_Held] = []

    def feed(self, ids: Sequence[int]) -> Release:
        """Take new tokens.

        Returns:
            The tokens that may be sent. After ``stopped`` the matcher must not be fed again.
        """
        for token_id in ids:
            piece = self._table.pieces[token_id]
            if piece and not self._begun:
                self._begun = True
                if self._table.strip_first:
                    piece = piece.removeprefix(b" ")
            cut = self._scan(self._decoder.decode(piece))
            self._held.append(_Held(token_id, self._chars, self._chars + bool(self._decoder.getstate()[0])))
            if cut is not None:
                return self._stop_at(cut)
        return Release(self._take(self._chars - self._held_back_chars()))

    def flush(self) -> Release:
        """The answer ended by itself: what was held back is text after all, unless its end completes a stop word."""
        cut = self._scan(self._decoder.decode(b"", final=True))
        self._held = [_Held(h.token_id, h.touched, h.touched) for h in self._held]
        return Release(self._take(self._chars)) if cut is None else self._stop_at(cut)

    def _scan(self, text: str) -> int | None:
        """Append ``text``; where the answer must be cut, in characters from its start, or None."""
        window = self._tail + text
        start = self._chars - len(self._tail)
        self._chars += len(text)
        ends = []  # a word that was complete before has stopped the answer, so every match ends in the new text
        for word in self._words:
            found = window.find(word)
            if found >= 0:
                ends.append((found + len(word), found))
        self._tail = window[-(self._longest - 1) :] if self._longest > 1 else ""
        return start + min(ends)[1] if ends else None

    def _held_back_chars(self) -> int:
        """Length of the longest end of the text that some stop word begins with."""
        tail = self._tail
        for length in range(len(tail), 0, -1):
            end = tail[-length:]
            if any(len(word) > length and word.startswith(end) for word in self._words):
                return length
        return 0

    def _take(self, chars: int) -> list[int]:
        """Remove and return the held tokens whose text, with no character unfinished, is in the first ``chars``."""
        count = 0
        for index, held in enumerate(self._held):
            if held.touched > chars:
                break
            if held.complete == held.touched:
                count, self._released = index + 1, held.complete
        taken = [held.token_id for held in self._held[:count]]
        del self._held[:count]
        return taken

    def _stop_at(self, cut: int) -> Release:
        """Release what comes before ``cut``: the tokens that end there, and the one that crosses it, trimmed."""
        ids = self._take(cut)
        trim_chars = 0
        if self._released < cut:
            for held in self._held:
                ids.append(held.token_id)
                if held.complete >= cut:
                    trim_chars = held.touched - cut
                    break
        self._held.clear()
        return Release(ids, trim_chars, stopped=True)


@dataclass(frozen=True)
class _Held:
    """A token that was not sent yet.

    Attributes:
        token_id: its id.
        complete: characters of the text that are complete with it.
        touched: the same and the one that it leaves unfinished, if any.
    """

    token_id: int
    complete: int
    touched: int
