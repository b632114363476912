"""SID: contrast with a branch that sees only the part of the image it attends to least.

Paper    Huo et al., "Self-Introspective Decoding: Alleviating Hallucinations for Large
         Vision-Language Models", ICLR 2025, arXiv 2408.02032.
Code     α, β, the number of tokens (50 of 576 for captions; 100 for questions) and the layer are
         those that act in the authors' code.
Edits    next_token_logits.
Needs    A second branch: from layer 2 on it sees the text and the image tokens that got least
         attention in layer 1, chosen anew for every token.
Departs  Other numbers of image tokens keep the same share (ours). Each token of a pass chooses for
         itself, so drafts and passes without cache give the same text (ours).
Cost     A second pass per token; its attention from layer 2 on is computed in plain products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_fix.contrast import Contrast
from lvlm_fix.method import setting
from lvlm_fix.watches import Branch, LeastSeen

__all__ = ["SID"]


@dataclass(frozen=True)
class SID(Contrast):
    """`(1+α)·l − α·l'` over the tokens with `l ≥ log β + max l`; l' of the branch."""

    strength: float = setting(
        0.5, "contrast α, unitless; 0 does not contrast", "authors' code", low=0
    )
    share: float = setting(
        50 / 576,
        "fraction of the image tokens that the branch sees; one at least",
        "authors' code, for captions",
        low=0,
        high=1,
    )

    paper: ClassVar[str] = "arXiv 2408.02032"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(LeastSeen(self.share))
