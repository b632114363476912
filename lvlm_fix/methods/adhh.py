"""AD-HH: silence the text attention of hallucination heads.

Paper    Yang et al., "Understanding and Mitigating Hallucination in Large Vision-Language Models
         via Modular Attribution and Intervention", ICLR 2025.
Edits    attention_weights of the last row, in the attributed heads.
Departs  The attributed heads come from a table: `heads score --metric ad-hh`, with `top=20` for
         about as many as the paper has; without one every head is tested (ours). The rest of a row
         is not scaled up again (ours: the paper sets the attention to 0 and says no more). Text
         after the image means every token after the first image token that is not an image token,
         generated ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.method import AtLayer, setting

__all__ = ["ADHH"]


@dataclass(frozen=True)
class ADHH(PicksHeads):
    """If a picked head gives the text after the image `least` of its attention or more, it now
    gives it none.
    """

    least: float = setting(
        0.4, "fraction of attention on text after the image; above 1: never", "paper", low=0
    )

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "ICLR 2025 (AD-HH)"

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.least > 1:
            return weights
        text = ~(at.image | at.before_image)[:, None, None]  # padding among it has no weight
        silenced = where(text, weights, 0.0).sum(-1, keepdim=True) >= self.least
        if (picked := self.picked(at)) is not None:
            silenced = silenced & picked.heads[..., None, None]
        return where(silenced & text, 0.0, weights)
