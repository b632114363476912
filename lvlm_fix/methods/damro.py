"""DAMRO: contrast with a branch whose picture is what the vision tower's CLS token looks at most.

Paper    Gong et al., "DAMRO: Dive into the Attention Mechanism of LVLM to Reduce Object
         Hallucination", EMNLP 2024, arXiv 2410.04514.
Code     The tokens (10 of 576 for LLaVA), their order, β and the attention as one head of the
         tower's whole width are those of the authors' code; α is 0.5 for questions, 1.5 for
         captions, 2 by default.
Edits    next_token_logits.
Needs    vision: the attention of the vision tower's CLS token in its last layer but one. So the
         tower must have a CLS token, and its patches must be the image tokens one to one. A second
         branch, whose picture is a few of the tokens.
Departs  Towers of other sizes keep the same share (ours). Each of several photos keeps its own
         tokens (ours). The branch holds the other tokens in its cache, hidden (ours; the same
         logits).
Cost     A second pass per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_fix.contrast import Contrast
from lvlm_fix.method import setting
from lvlm_fix.watches import Branch, TowerPicked

__all__ = ["DAMRO"]


@dataclass(frozen=True)
class DAMRO(Contrast):
    """`(1+α)·l − α·l'` over the tokens with `l ≥ log β + max l`; l' of the branch."""

    strength: float = setting(
        1.5, "contrast α, unitless; 0 does not contrast", "authors' code, for captions", low=0
    )
    share: float = setting(
        10 / 576,
        "fraction of a photo's tokens that the branch sees; one at least",
        "authors' code, for LLaVA",
        low=0,
        high=1,
    )

    paper: ClassVar[str] = "arXiv 2410.04514"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(TowerPicked(self.share))
