"""AdaIAT: raise the attention on the text written so far, head by head, where there is too little.

Paper    "AdaIAT: Adaptively Increasing Attention to Generated Text", CVPR 2026, arXiv 2603.04908.
Code     Layers, α, β and the factor α·(M − 1) are those of the authors' code; the paper has α·M.
Edits    attention_weights of the last row, layers 5 to 17 of 32, once something is written.
Needs    Written: which keys were generated. Calibrated: how much attention each head gives them at
         right and at invented words, measured for the model by `lvlm-fix heads curves`.
Departs  A factor below 0 becomes 0 (ours; the code lets weights become negative). Other depths take
         the same fractions of the depth (ours). A row counts the keys that it sees (ours; this
         changes nothing for one row at a time).
Cost     Each decoding step replaces its row in the layers that act.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.heads.curves import Curves
from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.methods.iat import middle
from lvlm_fix.watches import Calibrated, Written

__all__ = ["AdaIAT"]


@dataclass(frozen=True)
class AdaIAT(Method):
    """Where `R = Σ_h mean_j A_hj` falls short of `τ = inv + β·(real − inv)`, sums over heads:
    `A_hj ← A_hj·(1 + α·(M_h − 1))` for the keys j of the generated text, `M = real/inv`; then rows
    sum to 1 again.
    """

    strength: float = setting(
        6.0, "how much α of a head's ratio is added; 0: nothing", "authors' code", low=0
    )
    level: float = setting(
        0.5, "where τ lies between invented (0) and right words (1)", "authors' code"
    )
    curves: str | Curves = setting(
        "", "curves made by `heads curves`; empty: those that come with the model", "ours"
    )

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2603.04908"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.calibrated  # read now, so that a bad file is an error here

    @cached_property
    def calibrated(self) -> Calibrated:
        """The watch of the curves."""
        if isinstance(self.curves, str):
            return Calibrated(Curves.load(self.curves) if self.curves else None)
        return Calibrated(self.curves)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"curves": str(self.curves)}

    def acts_in(self, layers: int) -> Collection[int]:
        return middle(layers)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (Written(), self.calibrated)

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.strength == 0 or at.prompt_rows == at.queries or at.logits is None:
            return weights
        real, invented = at[self.calibrated]
        written = at[Written()][:, None, None]
        seen = (written & (at.logits > -math.inf)).sum(-1).clamp_min(1)  # batch heads query
        held = where(written, weights, 0.0).sum(-1)
        least = invented.sum() + self.level * (real.sum() - invented.sum())
        short = (held / seen).sum(1, keepdim=True) < least  # batch 1 query
        factor = (1 + self.strength * (real / invented - 1)).clamp_min(0)[:, None, None]
        raised = where(written, weights * factor, weights)
        raised = raised / raised.sum(-1, keepdim=True)
        return where((short & (held.sum(1, keepdim=True) > 0))[..., None], raised, weights)
