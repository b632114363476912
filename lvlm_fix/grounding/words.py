"""The words of a text, by characters and by tokens."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from string import punctuation as PUNCTUATION
from typing import Any

__all__ = ["Word", "lengths_of", "weak", "words_of"]


@dataclass(frozen=True)
class Word:
    """One word of a text: pieces joined at blanks, without the punctuation around it."""

    text: str
    start: int  # characters of the text, end exclusive
    end: int
    tokens: tuple[int, int]  # first token and the one behind the last


def lengths_of(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The length in characters of a stripped text after each of its tokens."""
    whole: str = tokenizer.decode(ids)
    blank = len(whole) - len(whole.lstrip())
    return [max(0, len(tokenizer.decode(ids[: i + 1])) - blank) for i in range(len(ids))]


def words_of(lengths: Sequence[int], text: str) -> tuple[Word, ...]:
    """The words of `text`: what stands between blanks, less the punctuation around it.

    `lengths` holds the length of the text after each of its tokens; a word's tokens are those that
    add to it. A token that completes a character, and so adds no length, belongs to the word before
    it.
    """
    ends = list(accumulate(reversed(lengths), min))[
        ::-1
    ]  # half a character may decode to more than the whole
    words: list[Word] = []
    place = 0
    for piece in text.split():
        place = text.index(piece, place)
        core = piece.strip(PUNCTUATION) or piece
        start = place + piece.index(core)
        end = start + len(core)
        place += len(piece)
        last = max(bisect_left(ends, end) + 1, bisect_right(ends, end))
        words.append(Word(core, start, end, (bisect_right(ends, start), last)))
    return tuple(words)


def weak(scores: Sequence[float], share: float = 0.25) -> list[bool]:
    """Which words are weakly grounded: the lowest `share` of a text's words."""
    limit = sorted(scores)[max(0, math.ceil(len(scores) * share) - 1)] if scores else 0.0
    return [score <= limit for score in scores]
