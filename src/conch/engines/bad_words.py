"""Bad words as a grammar: every text that has none of them in it.

The grammar is the Aho-Corasick automaton of the words over characters, one rule for each state, with the transitions
that complete a word left out. Every state accepts, so an answer may end anywhere. The words are matched in the text,
however it is cut into tokens.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

from conch.contract import BAD_WORDS
from conch.errors import InvalidArgumentError

MAX_STATES = 512  # each takes about 20 ms of processor time to compile, for a vocabulary of 49,152
_END = 0x110000  # after the last character
_BLOCK = 0x1000
_NO_CHARACTERS = range(0xD800, 0xE000)  # surrogates, which no text has


def bad_words_grammar(words: Sequence[str]) -> str:
    """A grammar in xgrammar's EBNF of the texts in which none of the words is found.

    Args:
        words: not empty, none of them empty; case counts.

    Raises:
        InvalidArgumentError: they are too long.
    """
    next_states, completes = _automaton(words)
    if len(next_states) > MAX_STATES:
        raise InvalidArgumentError(
            f"{BAD_WORDS.name} must have fewer than {MAX_STATES} characters in all (a beginning that two share counts "
            f"once), got {len(next_states) - 1}"
        )
    lines = ["root ::= s0"]
    for state, transitions in enumerate(next_states):
        if completes[state]:
            continue
        by_target: dict[int, list[str]] = defaultdict(list)
        for char, target in transitions.items():
            if not completes[target]:
                by_target[target].append(char)
        # Characters without a transition lead back to the first state; those that complete a word lead nowhere.
        choices = ['""', f"[{_all_but(transitions)}] s0"]
        choices += [f"[{''.join(map(_escaped, chars))}] s{target}" for target, chars in sorted(by_target.items())]
        lines.append(f"s{state} ::= {' | '.join(choices)}")
    return "\n".join(lines)


def _automaton(words: Sequence[str]) -> tuple[list[dict[str, int]], list[bool]]:
    """The automaton of all words: for each state its transitions to another than the first, and whether a word ends."""
    tree: list[dict[str, int]] = [{}]
    completes = [False]
    for word in words:
        state = 0
        for char in word:
            if char not in tree[state]:
                tree[state][char] = len(tree)
                tree.append({})
                completes.append(False)
            state = tree[state][char]
        completes[state] = True
    next_states: list[dict[str, int]] = [{} for _ in tree]
    next_states[0] = tree[0]
    fallback = [0] * len(tree)  # the longest beginning of a word that ends what a state has read, but for itself
    queue = deque(tree[0].values())
    while queue:  # by depth: a fallback is less deep, so it is complete
        state = queue.popleft()
        completes[state] = completes[state] or completes[fallback[state]]
        next_states[state] = {**next_states[fallback[state]], **tree[state]}
        for char, child in tree[state].items():
            fallback[child] = next_states[fallback[state]].get(char, 0)
            queue.append(child)
    return next_states, completes


def _all_but(chars: Iterable[str]) -> str:
    """Every character but these, as ranges of a class.

    Not a class with ^: xgrammar 0.1.31 takes such a class byte by byte when a character of it is not ASCII.
    """
    ranges = []
    first = 0
    for code in sorted({*map(ord, chars), *_NO_CHARACTERS, _END}):
        ranges += [f"{_escaped(chr(low))}-{_escaped(chr(high))}" for low, high in _safe_ranges(first, code - 1)]
        first = code + 1
    return "".join(ranges)


def _safe_ranges(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The range from first to last (none if first > last), cut where xgrammar 0.1.31 would lose a part of it.

    It does when an end differs from the other in one of the bytes before the last two of its UTF-8 and lies within the
    characters that share these bytes, which is a block of 4,096.
    """
    while first <= last:
        block_end = first | (_BLOCK - 1)
        if first & (_BLOCK - 1) == 0 and block_end <= last:  # as many whole blocks as there are
            block_end = (last + 1) // _BLOCK * _BLOCK - 1
        end = min(block_end, last)
        yield first, end
        first = end + 1


def _escaped(char: str) -> str:
    return f"\\U{ord(char):08x}"
