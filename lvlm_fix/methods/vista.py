"""VISTA: turn the MLPs' outputs towards what the image changes.

Paper    Li et al., "The Hidden Life of Tokens: Reducing Hallucination of Large Vision-Language
         Models via Visual Information Steering", ICML 2025, arXiv 2502.03628. This is its Visual
         Steering Vector; its other half is `sla`, so the whole of it is `vista+sla`.
Code     The edit, its rows and λ are those of the authors' code: λ = 0.17 for captions of
         LLaVA-1.5, 0.1 by default there, 0.01 for yes/no questions.
Edits    hidden_states: what an MLP writes, all rows but padding, in every pass.
Needs    ImageShift: what the layers give at the prompt's last row with and without the image.
Departs  The direction is the plain difference. The authors' code takes the first principal
         component of one row, which is this difference, except that one channel of the first layer
         gets 1 more. Image tokens are deleted, not cut out of the text before it is tokenised
         (ours). A further turn keeps the first one's directions (ours). If a norm follows the MLP,
         the edit comes before it (ours).
Cost     Two passes over the prompt; some products of the width in each layer and row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.vectors.turning import turned
from lvlm_fix.watches import ImageShift

__all__ = ["VISTA"]


@dataclass(frozen=True)
class VISTA(Method):
    """`m ← n(n(m) + λ·s·n(d_l))·‖m‖` with `s = 1 + max(0, cos(m, −d_l))`, where n scales to length
    1, m is what the MLP writes, and d_l what the image adds to layer l at the prompt's last row.
    """

    strength: float = setting(
        0.17, "weight λ of the direction, unitless; 0: nothing", "authors' code, captions", low=0
    )
    layers: tuple[int, ...] | None = setting(
        None, "layers to act in, from 0; none: all", "authors' code", low=0
    )

    part: ClassVar[Literal["layer", "mlp"]] = "mlp"
    paper: ClassVar[str] = "arXiv 2502.03628"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(layers) if self.layers is None else self.layers

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (ImageShift(),) if self.strength else ()

    def hidden_states(
        self, hidden: Float[Tensor, "batch query width"], at: AtLayer
    ) -> Float[Tensor, "batch query width"]:
        if self.strength == 0:
            return hidden
        return turned(hidden, at[ImageShift()][:, None], self.strength, against=True)
