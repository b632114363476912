"""HGAI: in the middle layers, raise image logits by what the heads agree on.

Paper    Jiang et al., "Devils in Middle Layers of Large Vision-Language Models", CVPR 2025, arXiv
         2411.16724.
Edits    attention_logits of the last row, layers 5 to 17 of 32.
Departs  Other depths take the same fractions of the depth (ours).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import AtLayer, Method, setting

__all__ = ["HGAI"]


@dataclass(frozen=True)
class HGAI(Method):
    """`a_{h,j} ← a_{h,j} + α·mean_{h'} |a_{h',j}|` for image keys j."""

    strength: float = setting(
        0.5, "factor α of the heads' mean size; 0 changes nothing", "paper", low=0
    )

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2411.16724"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(round(layers * 5 / 32), round(layers * 18 / 32))

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.strength == 0:
            return logits
        agreed = logits.abs().mean(1, keepdim=True)
        return where(at.image[:, None, None], logits.add(agreed, alpha=self.strength), logits)
