"""MoD: add a branch that sees the attended part of the image where it agrees with the whole, and
contrast with it where it does not.

Paper    Chen et al., "Mixture of Decoding: An Attention-Inspired Adaptive Decoding Strategy to
         Mitigate Hallucinations in Large Vision-Language Models", Findings of ACL 2025,
         arXiv 2505.17061.
Code     Which embeddings are set to zero, both weights, the threshold and β are those of the
         authors' code.
Edits    next_token_logits.
Needs    The last prompt row's attention in every layer. A second branch in which the least attended
         80 % of the image embeddings are zero. Both branches' logits for a text's first token.
Departs  The image tokens are found where they are, not in fixed columns (ours).
Cost     A second pass per token; the last row's attention once per prompt.
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
from lvlm_fix.watches import Branch, FirstToken, MostSeen

__all__ = ["MoD"]


@dataclass(frozen=True)
class MoD(Method):
    """`l + α₁·l'` for the whole text if the divergence at its first token is below the threshold,
    otherwise `(1+α₂)·l − α₂·l'`; over the tokens with `l ≥ log β + max l`.
    """

    agreeing: float = setting(
        4.0, "weight α₁ of a branch that agrees; 0: off", "authors' code", low=0
    )
    contrast: float = setting(
        1.0, "contrast α₂ with one that does not; 0: off", "authors' code", low=0
    )
    threshold: float = setting(
        0.05, "Jensen-Shannon divergence below which both agree, nats", "authors' code", low=0
    )
    plausible: float = setting(
        0.5,
        "least share β of the likeliest token's probability, 0 to 1",
        "authors' code",
        low=0,
        high=1,
    )
    share: float = setting(
        0.2,
        "fraction of the image tokens that the branch keeps",
        "authors' code",
        low=0,
        high=1,
    )

    paper: ClassVar[str] = "arXiv 2505.17061"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(MostSeen(self.share))

    def acts_in(self, layers: int) -> Collection[int]:
        """It looks at the attention of every layer."""
        return range(layers) if self.agreeing or self.contrast else ()

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        branch = self.branch()
        return (branch, FirstToken(branch)) if self.agreeing or self.contrast else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        own = logits.float()
        if not self.agreeing and not self.contrast:
            return own.masked_fill(~plausible(own, self.plausible), -torch.inf)
        other = at[self.branch()].float()
        agree = (at[FirstToken(self.branch())] < self.threshold)[:, None]
        return added_or_contrasted(own, other, agree, self.agreeing, self.contrast, self.plausible)
