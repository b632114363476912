"""M3ID: as the text grows, favour tokens that the image makes likelier.

Paper    Favero et al., "Multi-Modal Hallucination Control by Visual Information Grounding", CVPR
         2024, arXiv 2403.14003.
Edits    next_token_logits.
Needs    A second branch without the image.
Departs  The constants are uncertain: decay and certainty are ours. The first generated token has t
         = 1 (ours). Without a cache every pass is a prompt of its own, so t stays 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import Method, Seen, setting
from lvlm_fix.views import NoImage, View

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

    def second_view(self) -> View | None:
        return NoImage() if self.decay else None

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], seen: Seen
    ) -> Float[Tensor, "batch vocabulary"]:
        if seen.other is None:
            return logits
        with_image, without = logits.float().log_softmax(-1), seen.other.float().log_softmax(-1)
        weight = math.expm1(self.decay * (seen.step + 1))  # (1−g)/g
        unsure = with_image.amax(-1, keepdim=True).exp() < self.certainty
        return where(unsure, logits + weight * (with_image - without), logits)
