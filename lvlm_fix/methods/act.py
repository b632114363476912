"""ACT: move attention from sinks, wherever they are, to the other tokens.

Paper    Yu et al., "Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language
         Models without Training through Attention Calibration", ICML 2024, arXiv 2406.15765.
Code     not followed: it has a fixed limit of 0.1 in place of α/N, and skips the first sink,
         whichever it is.
Edits    attention_weights of text rows, layers 2 to L−2.
Needs    received: the mean of every column over all rows of the prompt. Computed in blocks of rows,
         so that no map is held; the cost is a second attention over the prompt in these layers.
Departs  Rows of the image are not edited (ours). Sinks are decided in the prefill; generated tokens
         are never sinks (ours). The initial token is not shrunk, and takes its part of the freed
         mass like any other (ours). The heads that the paper's filter keeps come from a table:
         `heads score --metric act`; without one, all heads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.method import AtLayer, Watch, setting
from lvlm_fix.watches import ColumnMeans

__all__ = ["ACT"]


@dataclass(frozen=True)
class ACT(PicksHeads):
    """`A_s ← β·A_s` for the sinks s of a head; the freed mass goes to its other tokens in
    proportion to their weight.

    A token is a sink of a head if it receives more than α/N on average over the N tokens of the
    prompt.
    """

    remaining: float = setting(
        0.4, "share β of a sink's weight that stays; 1: nothing changes", "paper", low=0, high=1
    )
    threshold: float = setting(
        5.0, "sink above so many times (α) the uniform share 1/N", "paper", low=0
    )

    paper: ClassVar[str] = "arXiv 2406.15765"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(2, layers - 1)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (*super().watches(layers), ColumnMeans())

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.remaining == 1:
            return weights
        received, picked = at[ColumnMeans()], self.picked(at)
        known = at.before_image | at.image
        initial = known & (known.cumsum(-1) == 1)
        sinks = (received.mean * received.tokens[:, None, None] > self.threshold) & ~initial[
            :, None
        ]
        if picked is not None:
            sinks = sinks & picked.heads[..., None]
        sinks = sinks[:, :, None]  # batch heads 1 key
        on_sinks = where(sinks, weights, 0.0).sum(-1, keepdim=True)
        on_others = where(sinks, 0.0, weights).sum(-1, keepdim=True)
        freed = (1 - self.remaining) * on_sinks
        edited = weights * where(sinks, self.remaining, 1 + freed / on_others.clamp_min(1e-12))
        return where(on_others > 0, edited, weights)
