"""Object words of a text by their place in characters. Asking, marking and dropping work on
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from string import punctuation
from typing import NamedTuple

from lvlm_fix.errors import SettingError
from lvlm_fix.objects.extract import mentions

__all__ = ["Find", "Spot", "coco", "listed"]


class Spot(NamedTuple):
    """One object word of a text."""

    object: str  # what to ask about: "dog" for "puppies"
    start: int  # characters of the text, end exclusive
    end: int


Find = Callable[[str], list[Spot]]
"""Text -> its object words, in order."""


def coco(text: str) -> list[Spot]:
    """The words of `text` that name one of COCO's 80 objects, by CHAIR's published rule."""
    places = [match.span() for match in re.finditer(r"\S+", text)]
    found: list[Spot] = []
    for mention in mentions(text):
        start, end = places[mention.first][0], places[mention.last][1]
        word = text[start:end]
        start += len(word) - len(word.lstrip(punctuation))
        found.append(Spot(mention.node, start, start + len(word.strip(punctuation))))
    return found


def listed(words: Iterable[str]) -> Find:
    """Finds the words of a list of your own, singular or plural, whole words, longest first.

    Raises `SettingError` for an empty list.
    """
    names: Sequence[str] = [word.strip().lower() for word in words if word.strip()]
    if not names:
        raise SettingError("a list of objects needs at least one word, got none")
    forms = {form: name for name in names for form in (plural(name), name + "s", name)}
    longest = sorted(forms, key=len, reverse=True)
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest))})\b", re.IGNORECASE)

    def find(text: str) -> list[Spot]:
        return [Spot(forms[m[0].lower()], *m.span()) for m in pattern.finditer(text)]

    return find


IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice",
    "foot": "feet", "tooth": "teeth", "goose": "geese", "knife": "knives", "shelf": "shelves",
    "leaf": "leaves", "sheep": "sheep",
}  # fmt: skip


def plural(word: str) -> str:
    """The plural of a noun."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
