"""ONLY: contrast with what the first layer's textual heads alone say, or add it where both agree.

Paper    Wan et al., "ONLY: One-Layer Intervention Sufficiently Mitigates Hallucinations in Large
         Vision-Language Models", ICCV 2025, arXiv 2507.00898.
Code     Which weights and heads are kept, how they are carried to the last layer, both weights, the
         threshold and β are those of the authors' code (captions; 0.2 for yes/no questions).
Edits    next_token_logits.
Needs    TextualLayer: the first layer's attention, through the last layer's norms and MLP.
Departs  The image is where it is, and a text's first key is the first that the row sees, not fixed
         columns (ours). Each text of a batch has its own heads and its own distance (ours; the
         authors run one text).
Cost     One MLP and one product of the head per token; the first layer's attention once more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.contrast import added_or_contrasted, plausible
from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import TextualLayer

__all__ = ["ONLY"]


@dataclass(frozen=True)
class ONLY(Method):
    """`l + α₁·l'` where `Σ|p − p'| < γ`, else `(1+α₂)·l − α₂·l'`; over the tokens with
    `l ≥ log β + max l`.
    """

    agreeing: float = setting(
        3.0, "weight α₁ of a layer that agrees; 0: off", "authors' code", low=0
    )
    contrast: float = setting(
        1.0, "contrast α₂ with one that does not; 0: off", "authors' code", low=0
    )
    threshold: float = setting(
        0.25,
        "distance γ below which both agree, 0 to 2: summed over the vocabulary",
        "authors' code, captions",
        low=0,
    )
    plausible: float = setting(
        0.1,
        "least share β of the likeliest token's probability, 0 to 1",
        "authors' code",
        low=0,
        high=1,
    )

    paper: ClassVar[str] = "arXiv 2507.00898"

    def acts_in(self, layers: int) -> Collection[int]:
        """It looks at the attention of the first layer."""
        return (0,) if self.agreeing or self.contrast else ()

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (TextualLayer(),) if self.agreeing or self.contrast else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        own = logits.float()
        if not self.agreeing and not self.contrast:
            return own.masked_fill(~plausible(own, self.plausible), -torch.inf)
        other = at[TextualLayer()].float().to(own.device)
        apart = (own.softmax(-1) - other.softmax(-1)).abs().sum(-1, keepdim=True)
        return added_or_contrasted(
            own, other, apart < self.threshold, self.agreeing, self.contrast, self.plausible
        )
