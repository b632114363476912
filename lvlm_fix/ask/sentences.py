"""Split a text into sentences, and remove doubtful objects so that it stays grammatical."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from lvlm_fix.objects import Spot

__all__ = ["drop", "ended", "sentences"]

Doubt = Callable[[Spot], bool]

SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+[\"'”’)]*(?=\s|$)|\n|$|[.!?]+)", re.DOTALL)
DETERMINER = r"(?:an?|the|one|two|three|four|five|six|several|some|many|various|multiple|another)"
# words that a noun phrase of a list does not hold: there another part of the clause begins
PLACES = r"with|on|in|at|of|to|by|near|next|here|there"
BREAK = rf"(?:is|are|was|were|has|have|that|which|who|{PLACES}|\w+ing)\b"
NOUN = rf"{DETERMINER}\s+(?:[\w'-]+\s+){{0,2}}?[\w'-]+"
ITEM = rf"{NOUN}(?=\s*(?:[^\w\s'-]|$)|\s+(?:and\b|or\b|{BREAK}))"
JOIN = r"(?:\s*,\s*and\s+|\s*,\s*or\s+|\s*,\s*|\s+and\s+|\s+or\s+)"
LIST = re.compile(rf"\b{ITEM}(?:{JOIN}{ITEM})+", re.IGNORECASE)
# what is right behind the article belongs to the noun ("a dining table", "a sleeping cat")
CLAUSE = re.compile(rf"^{DETERMINER}\s+[\w'-]+.*?\s{BREAK}", re.IGNORECASE)
# a phrase at the end of a clause that can go without it
PHRASE = re.compile(
    rf"\s*,?\s+(?:along\s+with|with|near|next\s+to|beside|behind|in\s+front\s+of)\s+({NOUN})"
    r"(?=\s*(?:[.!?,;]|$))",
    re.IGNORECASE,
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence starts and ends, leading blanks included; together they are the text."""
    spans: list[tuple[int, int]] = []
    for match in SENTENCE.finditer(text):
        if not match[0]:
            continue
        if match[0].strip() or not spans:
            spans.append(match.span())
        else:
            spans[-1] = spans[-1][0], match.end()
    return spans


def ended(text: str) -> bool:
    """Whether the last sentence of a growing text has come to its end."""
    return bool(re.search(r"(?:[.!?][\"'”’)]*|\n)\s*$", text))


def drop(text: str, spots: Sequence[Spot], doubtful: Doubt) -> str:
    """The text without the sentences that rest on a doubtful object.

    Where the object is one item of a list, or stands in a phrase at the end that can go ("with a
    dog"), only that goes.
    """
    kept: list[str] = []
    for start, end in sentences(text):
        here = [s for s in spots if start <= s.start < end]
        bad = [(s.start - start, s.end - start) for s in here if doubtful(s)]
        part: str | None = text[start:end]
        if bad:
            part = _without(text[start:end], bad)
        if part is not None:
            kept.append(part)
    whole = "".join(kept)
    whole = whole if text[:1].isspace() else whole.lstrip()
    return whole if text[-1:].isspace() else whole.rstrip()


def _without(sentence: str, bad: Sequence[tuple[int, int]]) -> str | None:
    """The sentence without these places; None where they cannot go alone."""
    for match in [*LIST.finditer(sentence), *PHRASE.finditer(sentence)][::-1]:
        inside = [b for b in bad if match.start() <= b[0] and b[1] <= match.end()]
        if not inside:
            continue
        if match.re is PHRASE:
            put: str | None = ""
        else:
            put = _fewer(sentence, match, inside)
        if put is None:
            continue
        rest = sentence[: match.start()] + put + sentence[match.end() :]
        shift = len(rest) - len(sentence)
        left = [
            (a + shift, b + shift) if a >= match.end() else (a, b)
            for a, b in bad
            if (a, b) not in inside
        ]
        if len(rest.split()) < 2:
            return None
        return _without(rest, left) if left else rest
    return None


def _fewer(sentence: str, match: re.Match[str], bad: Collection[tuple[int, int]]) -> str | None:
    """A list without its doubtful items; None where none is left, or an item is no noun phrase."""
    items: list[str] = []
    place, wrong = match.start(), False
    for piece in re.split(rf"({JOIN})(?={NOUN})", match[0], flags=re.IGNORECASE):
        end = place + len(piece)
        if not re.fullmatch(JOIN, piece, re.IGNORECASE):
            wrong = wrong or bool(CLAUSE.search(piece))
            if not any(place <= start and stop <= end for start, stop in bad):
                items.append(piece)
        place = end
    behind = sentence[match.end() :]
    if wrong or not items:
        return None
    if len(items) == 1 and re.match(r"\s+(?:are|were|have)\b", behind):
        return None  # the verb would not agree
    word = " or " if re.search(r"\bor\b", match[0]) else " and "
    first = items[0]
    if match.start() == 0 or sentence[: match.start()].strip() == "":
        first = first[:1].upper() + first[1:]
    lead = ", ".join([first, *items[1:-1]])
    comma = "," if re.search(r",\s*(?:and|or)\b", match[0]) and len(items) > 2 else ""
    return lead if len(items) == 1 else f"{lead}{comma}{word}{items[-1]}"
