"""PAI, attention part: raise the last row's logits of image keys by a share of their size.

Paper    Liu et al., "Paying More Attention to Image", ECCV 2024, arXiv 2407.21771.
Edits    attention_logits of the last row, from layer 2.
Departs  The refinement of the next token's logits is not part of this edit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import Method, Seen, setting

__all__ = ["PAI"]


@dataclass(frozen=True)
class PAI(Method):
    """`a_j ← a_j + α·|a_j|` for image keys j, in every head of layers 2 and up."""

    strength: float = setting(0.5, "share α of a logit's size that is added; 0: nothing", "paper: 0.2 to 0.5", low=0)
    first_layer: int = setting(2, "first layer that is edited", "authors' code", low=0)

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2407.21771"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(self.first_layer, layers)

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], seen: Seen
    ) -> Float[Tensor, "batch heads query key"]:
        return where(seen.image[:, None, None], logits + self.strength * logits.abs(), logits)
