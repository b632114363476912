"""EAH: in a shallow layer, let every head look where the head with the most image sinks looks.

Paper    Zhang et al., "Seeing Clearly by Layer Two: Enhancing Attention Heads to Alleviate
         Hallucination in LVLMs", EMNLP 2025, arXiv 2411.09968.
Edits    attention_weights of text rows, layer 1.
Needs    received: the mean of every column over all rows of the prompt, computed in blocks of rows.
Departs  The map is copied in text rows only, not in the image's own rows (ours: they are not
         recomputed). The head is found in the prefill, and its rows are copied while decoding too
         (ours). A tie goes to the lower head. If no head has an image sink, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, arange, where

from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.watches import ColumnMeans

__all__ = ["EAH"]


@dataclass(frozen=True)
class EAH(Method):
    """`A_h ← A_{h*}` for every head h, with h* the head that has the most image columns of mean >
    `threshold`.
    """

    threshold: float = setting(
        0.002, "mean of a column above which an image token is a sink; 1: none", "paper", low=0
    )
    layer: int = setting(1, "the layer that is edited", "paper", low=0)

    paper: ClassVar[str] = "arXiv 2411.09968"

    def acts_in(self, layers: int) -> Collection[int]:
        return (self.layer,)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (ColumnMeans(),)

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.threshold >= 1:
            return weights
        count = ((at[ColumnMeans()].mean > self.threshold) & at.image[:, None]).sum(
            -1
        )  # batch heads
        donor = count.argmax(-1)
        copied = weights[arange(len(weights), device=weights.device), donor][:, None]
        return where((count.amax(-1) > 0)[:, None, None, None], copied, weights)
