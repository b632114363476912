"""OPERA: beam search that avoids words on which all later text leans, and goes back to such a word.

Paper    Huang et al., "OPERA: Alleviating Hallucination in Multi-Modal Large Language Models via
         Over-Trust Penalty and Retrospection-Allocation", CVPR 2024, arXiv 2311.17911.
Code     Constants and steps are those of the authors' code: a column's product includes its
         diagonal, scores are kept in float16, the first words are drawn to the image instead, and
         after a return the whole vocabulary competes, except what was taken there before.
Edits    Decoding: a beam search that looks at the candidates of every beam.
Needs    AnswerRows: the last layer's attention of every candidate. A cache that keeps every key.
Departs  A score beyond float16 becomes its largest number (ours). Beams can return to every step
         (ours; the code: the last 512). A return that has no later step to undo does not count
         (ours). A strength of 0 is the stock beam search, without returns (ours). A text without
         image is decoded by as many beams as the caller asked for, without penalty (ours).
Cost     One pass of beams × candidates rows per token; the cache is repeated for them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache, GenerationConfig, PreTrainedModel

from lvlm_fix.beams.search import Search
from lvlm_fix.method import Method, Watch, setting
from lvlm_fix.watches import AnswerRows

__all__ = ["OPERA", "most_common", "over_trust"]

TINY = 1e-7


def over_trust(
    sums: Float[Tensor, "*rest column"],
) -> tuple[Float[Tensor, "*rest"], Int[Tensor, "*rest"]]:
    """The penalty `φ = max_j 1e−7·Π_i 50·W_ij`, and j, from each column's summed logarithms."""
    scores = (sums + math.log(TINY)).exp().clamp_max(torch.finfo(torch.float16).max).half().float()
    column = scores.argmax(-1)
    return scores.gather(-1, column[..., None])[..., 0], column


def most_common(values: Int[Tensor, "*rest one"]) -> Int[Tensor, "*rest"]:
    """The most frequent value; of several, the smallest."""
    ordered = values.sort(-1).values
    count = (ordered[..., None] == ordered[..., None, :]).sum(-1)
    return ordered.gather(-1, count.argmax(-1, keepdim=True))[..., 0]


@dataclass(frozen=True)
class OPERA(Method):
    """`softmax(l − α·φ)` over a beam's candidates, with `φ = max_j 1e−7·Π_{i ≥ j} 50·W_ij` of the
    text's own attention W, candidate included. If all beams' largest column stays the same too
    often, the beams go back to just after it.
    """

    strength: float = setting(1.0, "weight α of the penalty; 0: plain beams", "paper", low=0)
    beams: int = setting(5, "beams, where the caller asks for none", "authors' code", low=1)
    candidates: int = setting(5, "candidates of each beam, tokens", "authors' code", low=1)
    scale: float = setting(50.0, "factor of the attention in a product", "authors' code", low=0)
    threshold: int = setting(
        15, "how often a column was the largest before a return, steps", "authors' code", low=0
    )
    returns: int = setting(5, "returns to one place at most", "authors' code", low=0)
    early: int = setting(
        10, "first tokens, which are drawn to the image; no return into them", "authors' code",
        low=0,
    )  # fmt: skip

    paper: ClassVar[str] = "arXiv 2311.17911"

    def acts_in(self, layers: int) -> Collection[int]:
        return (layers - 1,)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (AnswerRows(),) if self.strength else ()

    def decoding(self, beams: int) -> tuple[int, Callable[..., Any] | None] | None:
        count = beams if beams > 1 else self.beams
        if self.strength == 0:
            return None if count == 1 else (count, None)

        def decode(
            model: PreTrainedModel, input_ids: Tensor, logits_processor: Any,
            stopping_criteria: Any, generation_config: GenerationConfig, **given: Any,
        ) -> Any:  # fmt: skip
            search = Search(
                lambda: _Judge(self), self.candidates, model, logits_processor, stopping_criteria,
                generation_config,
            )  # fmt: skip
            return search.run(input_ids, given, beams)

        return count, decode


@dataclass
class _Judge:
    """OPERA's judgement of one sample's beams: of each column it keeps `Σ_i log 50·W_ij`."""

    method: OPERA
    image: Tensor | None = None  # by row: the newest token's attention to the image
    largest: list[Tensor] = field(default_factory=list)  # by token: each beam's largest column
    returned: Counter[int] = field(default_factory=Counter)  # by place
    taken: dict[int, Tensor] = field(default_factory=dict)  # by place

    def grown(self, known: Tensor, cache: Cache) -> Tensor:
        row = AnswerRows().of(cache)
        if row is None:  # there is no image
            return known
        self.image = row.image
        return pad(known, (0, 1)) + (row.answer.to(known) * self.method.scale).log()

    def worth(self, logits: Tensor, known: Tensor) -> Tensor:
        penalty, column = over_trust(known)
        self.largest.append(most_common(column))
        if known.shape[-1] <= self.method.early and self.image is not None:
            penalty = -self.image.view_as(logits)
        return logits - self.method.strength * penalty.to(logits)

    def back(self) -> int | None:
        method, column = self.method, most_common(self.largest[-1])
        often = (torch.stack(self.largest) == column).sum(0) > method.threshold
        place = int(column) + 1
        if not often.all() or place <= method.early:
            return None
        place -= self.returned[place] >= method.returns
        spent = self.returned[place] >= method.returns
        return place if not spent and 0 < place < len(self.largest) - 1 else None

    def barred(self, place: int, came: Tensor) -> Tensor:
        self.returned[place] += 1
        found = torch.cat((self.taken.get(place, came[:0]), came))
        self.taken = {at: old for at, old in self.taken.items() if at < place} | {place: found}
        del self.largest[place + 1 :]
        return found
