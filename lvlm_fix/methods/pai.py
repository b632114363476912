"""PAI: raise the last row's logits of image keys by a share of their size; refine the next token
with a branch that has no image.

Paper    Liu et al., "Paying More Attention to Image", ECCV 2024, arXiv 2407.21771.
Edits    attention_logits of the last row, from layer 2; next_token_logits.
Needs    A second branch without the image, for the refinement.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.contrast import refined
from lvlm_fix.method import AtLayer, AtToken, Method, Watch, setting
from lvlm_fix.watches import Branch, NoImage

__all__ = ["PAI"]

WITHOUT = Branch(NoImage())


@dataclass(frozen=True)
class PAI(Method):
    """`a_j ← a_j + α·|a_j|` for image keys j, in every head of layers 2 and up; then `γ·(s − u) +
    u` of log-softmax s with and u without image, over the tokens with `s ≥ log plausible + max
    s`."""

    strength: float = setting(
        0.5, "share α of a logit's size that is added; 0: nothing", "paper: 0.2 to 0.5", low=0
    )
    contrast: float = setting(
        1.1, "refinement γ, unitless; 1: the next token is not refined", "paper", low=0
    )
    plausible: float = setting(
        0.1, "least share of the likeliest token's probability, 0 to 1", "paper", low=0, high=1
    )
    first_layer: int = setting(2, "first layer that is edited", "authors' code", low=0)

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2407.21771"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(self.first_layer, layers)

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.strength == 0:
            return logits
        return where(at.image[:, None, None], logits.add(logits.abs(), alpha=self.strength), logits)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return () if self.contrast == 1 else (WITHOUT,)

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.contrast == 1:
            return logits
        return refined(logits.float(), at[WITHOUT].float(), self.contrast, self.plausible)
