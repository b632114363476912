"""SPIN: damp the heads that look at the image least.

Paper    Sarkar et al., "Mitigating Hallucinations in Vision-Language Models through Image-Guided
         Head Suppression", EMNLP 2025, arXiv 2505.16411.
Edits    attention_weights of the last row: scaling a head's weights scales its output by the same
         factor.
Departs  At least one head is damped if r < 1 (ours: ⌈(1−r)·H⌉; r = 0.95 of 8 heads would damp
         none). Heads that a table picks are kept, and the others are damped (ours).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.method import AtLayer, setting

__all__ = ["SPIN"]


@dataclass(frozen=True)
class SPIN(PicksHeads):
    """Per layer and row: the ⌈(1−r)·H⌉ heads with the smallest summed image logits are multiplied
    by `damping`.
    """

    kept: float = setting(0.95, "fraction r of the heads that is kept", "paper", low=0, high=1)
    damping: float = setting(
        0.08, "factor on the other heads' outputs; 1 changes nothing", "paper", low=0, high=1
    )

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2505.16411"

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.damping == 1:
            return weights
        if (picked := self.picked(at)) is not None:
            return where(picked.heads[..., None, None], weights, weights * self.damping)
        assert at.logits is not None
        visible = at.image[:, None, None] & at.logits.isfinite()  # a window may hide some
        scores = where(visible, at.logits, 0.0).sum(-1)  # batch heads query
        few = math.ceil((1 - self.kept) * weights.shape[1] - 1e-9)
        damped = scores.argsort(1).argsort(1) < few
        return where(damped[..., None], weights * self.damping, weights)
