"""Guide: ask about a list of objects before the first word, and hold back those that are not there.

Paper    None: ours (docs/ask.md). Woodpecker (arXiv 2310.16045) and LogicCheckGPT (arXiv
         2402.11622) showed that a model's own answer reveals invented objects; they correct a
         finished text.
Edits    next_token_logits.
Needs    The answers about every object in the list, asked once after the image; the tokens so far.
Departs  -
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.ask.words import Words, forms_of, pull
from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.objects.lists import named
from lvlm_fix.objects.spots import plural
from lvlm_fix.objects.vocabulary import NODES
from lvlm_fix.watches.answered import Answered

__all__ = ["Guide"]


@dataclass(frozen=True)
class Guide(Method):
    """`l_t + strength · min(0, odds − threshold)` for every token t that completes a word for an
    object; and a share of the positive part until the object is named.
    """

    strength: float = setting(
        1.0, "logits for each unit of log-odds below the threshold; 0: none", "ours", low=0
    )
    threshold: float = setting(
        1.0, "log-odds of Yes against No from which on an object counts as there", "ours"
    )
    share: float = setting(
        0.0, "share of what is above the threshold that is added, 0 to 1", "ours", low=0, high=1
    )
    objects: str = setting(
        "", 'words joined by commas, "open" or "@FILE"; empty: COCO\'s 80 objects', "ours"
    )

    paper: ClassVar[str] = "ours"

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (Answered(self._names()),) if self.strength else ()

    def _names(self) -> tuple[str, ...]:
        return named(self.objects) or tuple(NODES)

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if not self.strength:
            return logits
        odds, written, asker = at[Answered(self._names())]
        words = _words(asker.tokenizer, self._names(), not self.objects)
        added = [
            pull(
                words,
                history,
                answers,
                strength=self.strength,
                threshold=self.threshold,
                share=self.share,
                vocabulary=logits.shape[-1],
            )
            for history, answers in zip(written, odds, strict=True)
        ]
        both = torch.stack(added)
        return logits + both.to(logits) if bool(both.any()) else logits


@functools.lru_cache(maxsize=8)
def _words(tokenizer: Any, names: tuple[str, ...], synonyms: bool) -> Words:
    """A list of your own stands for its words only, COCO's objects for all words that name them."""
    return Words(
        tokenizer,
        forms_of(names) if synonyms else {name: [name, plural(name)] for name in names},
    )
