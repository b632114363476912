"""Words as tokens: which token would complete a word for an object, given the tokens so far.

A word is one path over tokens. Only the token that completes it counts, so two words that begin
with the same token do not get in each other's way: "ski" does not hold back "sky". If a longer word
ends with a shorter one ("hot dog"), the longer one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.ask.asker import Answers
from lvlm_fix.objects import surfaces
from lvlm_fix.objects.spots import plural

__all__ = ["Words", "behind_blank", "forms_of", "ids_of", "pull"]


def forms_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The forms in which a text names objects: all synonyms of COCO's 80, a plural of others."""
    known = surfaces()
    return {name: known.get(name, [name, plural(name)]) for name in names}


class Words:
    """The forms of some objects as paths over a tokenizer's tokens."""

    def __init__(self, tokenizer: Any, forms: Mapping[str, Sequence[str]]) -> None:
        self._inside: dict[tuple[int, ...], dict[int, str]] = {}
        self._first: dict[tuple[int, ...], dict[int, str]] = {}  # at the start of a text
        self.longest = 0  # tokens of a path, less the last

        for name, words in forms.items():
            for word in (form for lower in words for form in (lower, lower.capitalize())):
                self._add(self._inside, behind_blank(tokenizer, word), name)
                self._add(self._first, ids_of(tokenizer, word), name)

    def _add(
        self, paths: dict[tuple[int, ...], dict[int, str]], path: list[int], name: str
    ) -> None:
        if path:
            paths.setdefault(tuple(path[:-1]), {}).setdefault(path[-1], name)
            self.longest = max(self.longest, len(path) - 1)

    def completing(self, history: Sequence[int]) -> dict[int, str]:
        """Token -> the object whose word it would complete; a longer word takes precedence."""
        found: dict[int, str] = {}
        if len(history) <= self.longest:
            found |= self._first.get(tuple(history), {})
        for back in range(min(self.longest, len(history)), -1, -1):
            for token, name in self._inside.get(tuple(history[len(history) - back :]), {}).items():
                found.setdefault(token, name)
        return found

    def named(self, history: Sequence[int]) -> set[str]:
        """The objects that these tokens name already."""
        return {
            name
            for i, token in enumerate(history)
            if (name := self.completing(history[max(0, i - self.longest - 1) : i]).get(token))
        }


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text at its start, none added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def behind_blank(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that follows a blank, whatever a tokenizer does with the first word
    of a text.
    """
    before, whole = ids_of(tokenizer, "a"), ids_of(tokenizer, f"a {text}")
    return whole[len(before) :] if whole[: len(before)] == before else ids_of(tokenizer, text)


def pull(
    words: Words,
    history: Sequence[int],
    odds: Answers,
    *,
    strength: float,
    threshold: float,
    share: float,
    vocabulary: int,
) -> Float[Tensor, " vocabulary"]:
    """What is added to the next token's logits: `strength · min(0, odds − threshold)` at tokens
    that complete a word of an object, and `share` of the positive part until the object is named.
    """
    added = torch.zeros(vocabulary)
    named = words.named(history) if share else set[str]()
    for token, name in words.completing(history).items():
        if name in odds:
            over = odds[name] - threshold
            up = share * over if over > 0 and name not in named else 0.0
            added[token] = strength * (over if over < 0 else up)
    return added
