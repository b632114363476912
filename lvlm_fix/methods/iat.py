"""IAT: raise the last row's logits of the text written so far.

Paper    "AdaIAT: Adaptively Increasing Attention to Generated Text", CVPR 2026, arXiv 2603.04908;
         this is its plain form, IAT.
Code     Layers and α are those of the authors' code.
Edits    attention_logits of the last row, layers 5 to 17 of 32, once something is written.
Needs    Written: which keys were generated.
Departs  Other depths take the same fractions of the depth (ours).
Cost     Each decoding step replaces its row in the layers that act.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.watches import Written

__all__ = ["IAT", "middle"]


def middle(layers: int) -> range:
    """The paper's layers: 5 to 17 of 32."""
    return range(round(layers * 5 / 32), round(layers * 18 / 32))


@dataclass(frozen=True)
class IAT(Method):
    """`a_j ← a_j + α·|a_j|` for the keys j of the generated text."""

    strength: float = setting(
        0.8, "share α of a logit's size that is added; 0: nothing", "authors' code", low=0
    )

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2603.04908"

    def acts_in(self, layers: int) -> Collection[int]:
        return middle(layers)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (Written(),)

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.strength == 0 or at.prompt_rows == at.queries:
            return logits
        written = at[Written()][:, None, None]
        return where(written, logits.add(logits.abs(), alpha=self.strength), logits)
