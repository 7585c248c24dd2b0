"""Token ids to text, chunk by chunk, so that the pieces joined are exactly the text of the whole.

Decoding is a pure function of a chunk and of a few tokens before it (its context). Nothing is kept between calls, so
a stream that is given up leaks nothing. The engine finds the context with ``ContextTracker``; the detokenizer decodes
with ``decode_chunk``. Malformed UTF-8 becomes U+FFFD by the practice of maximal subparts (Unicode standard, section
3.9), which Python's decoder and Rust's ``from_utf8_lossy`` share.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from conch.errors import InvalidArgumentError
from conch.text.token_bytes import TokenBytes

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


def pending_bytes(data: bytes) -> bytes:
    """The bytes at the end of ``data`` that begin a character and do not end it (at most 3)."""
    if not data or data[-1] < 0x80:
        return b""
    decoder = _utf8_decoder("replace")
    decoder.decode(data[-4:])  # an incomplete character is at most 3 bytes long, and UTF-8 synchronizes itself
    return decoder.getstate()[0]


def decode_chunk(table: TokenBytes, context: Sequence[int], ids: Sequence[int], *, final: bool) -> str:
    """Text that ``ids`` add after ``context``.

    Args:
        table: bytes of every token.
        context: ids just before, as ContextTracker gives them; empty at the start of a text.
        ids: the chunk.
        final: nothing follows: an incomplete character becomes U+FFFD instead of waiting for its rest.

    Raises:
        InvalidArgumentError: an id is not in the vocabulary.
    """
    data = join_pieces(table, ids)
    if context:
        data = pending_bytes(join_pieces(table, context)) + data
    elif table.strip_first and data[:1] == b" ":
        data = data[1:]
    if not final and data and data[-1] >= 0x80:
        waiting = len(pending_bytes(data))
        data = data[: len(data) - waiting]
    return data.decode("utf-8", "replace")


def join_pieces(table: TokenBytes, ids: Sequence[int]) -> bytes:
    """Bytes of ``ids`` one after the other.

    Raises:
        InvalidArgumentError: an id is not in the vocabulary.
    """
    pieces = table.pieces
    try:
        if len(ids) == 1 and ids[0] >= 0:
            return pieces[ids[0]]
        if min(ids, default=0) >= 0:
            return b"".join([pieces[i] for i in ids])
    except IndexError:
        pass
    bad = next(i for i in ids if not 0 <= i < len(pieces))
    raise InvalidArgumentError(f"token ids must be in [0, {len(pieces)}), got {bad}")


class ContextTracker:
    """Follows one answer and says which ids the decoder must see before the next chunk.

    Almost always none: only when the last character is incomplete, or when the tokenizer writes spaces in front of
    words (then any one token tells the decoder that the text has begun).
    """

    __slots__ = ("_context", "_pending", "_table")

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._context: list[int] = []
        self._pending = b""

    @property
    def context(self) -> list[int]:
        """Context of the next chunk; a new list after every ``advance``."""
        return self._context

    def advance(self, ids: Sequence[int]) -> None:
        """Take note of a chunk that was sent."""
        table, context, pending = self._table, self._context, self._pending
        for token_id in ids:
            piece = table.pieces[token_id]
            if not piece:
                continue
            was_pending = bool(pending)
            pending = pending_bytes(pending + piece)
            if not pending:
                context = [token_id] if table.strip_first else []
            elif was_pending and len(pending) > len(piece):
                context = [*context, token_id]
            else:
                context = [token_id]
        self._context, self._pending = context, pending
