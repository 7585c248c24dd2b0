"""Prompts whose answer names its request: a word repeated, which even a small model goes on repeating.

Rounding can change an answer in a batch, but not what it is about; a token of another request would show at once.
"""

from __future__ import annotations

WORDS = (
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kitchen",
    "ladder", "mirror", "needle", "orange", "pencil", "rabbit", "saddle", "turtle", "violin", "window", "yellow",
    "zebra", "anchor", "basket", "castle", "dragon", "eagle", "flower", "guitar", "helmet", "iron", "jungle", "king",
    "lemon", "monkey", "night", "ocean", "piano", "queen", "river", "silver", "tiger", "uncle", "valley", "water",
    "camel", "diamond", "elephant", "finger", "ghost", "honey", "ink", "jewel", "kettle", "lion", "marble", "nest",
    "olive", "paper", "quilt", "rocket", "spider", "thunder",
)  # fmt: skip
assert len(set(WORDS)) == len(WORDS) == 64
_TURN = "<|im_start|>user\nSay {word} a hundred times.<|im_end|>\n<|im_start|>assistant\n"


def prompt_of(word: str) -> str:
    """A chat that goes on with the word and a comma."""
    return _TURN.format(word=word) + ", ".join([word] * 16) + ","


def strangers(word: str, answer: str) -> set[str]:
    """What is in an answer and does not belong there; its last word may be cut off."""
    said = [part.strip() for part in answer.split(",")]
    if word.startswith(said[-1]):
        said.pop()
    return {one for one in said if one != word}
