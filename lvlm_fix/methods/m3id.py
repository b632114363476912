"""M3ID: as the text grows, favour tokens that the image makes likelier.

Paper    Favero et al., "Multi-Modal Hallucination Control by Visual Information Grounding", CVPR
         2024, arXiv 2403.14003.
Edits    next_token_logits.
Needs    A second branch without the image.
Departs  The constants are uncertain: decay and certainty are ours. The first generated token has t
         = 1 (ours). Without a cache, every pass is a prompt of its own, so t stays 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import Branch, NoImage

__all__ = ["M3ID"]


@dataclass(frozen=True)
class M3ID(Method):
    """`l_c + 1[max p_c < a]·((1−g)/g)·(l_c − l_u)`, g = exp(−λt), l log-softmax with (c) and
    without (u) the image.
    """

    decay: float = setting(
        0.02, "rate λ at which the image is forgotten, per token; 0: never", "ours", low=0
    )
    certainty: float = setting(
        0.4, "probability a from which the likeliest token is kept", "ours", low=0, high=1
    )

    paper: ClassVar[str] = "arXiv 2403.14003"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(NoImage())

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.branch(),) if self.decay else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if not self.decay:
            return logits
        with_image, without = (
            logits.float().log_softmax(-1),
            at[self.branch()].float().log_softmax(-1),
        )
        weight = math.expm1(self.decay * (at.step + 1))  # (1−g)/g
        unsure = with_image.amax(-1, keepdim=True).exp() < self.certainty
        return where(unsure, logits + weight * (with_image - without), logits)
