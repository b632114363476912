"""VTI: turn what the MLPs write towards right captions, by a direction measured before.

Paper    Liu, Ye, Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space
         Steering", ICLR 2025, arXiv 2410.15778. This is its textual half.
Code     The edit and α are those of the authors' code, whose only released run is MMHal's; values
         for captions were not released.
Edits    hidden_states: what an MLP writes, all rows but padding, in every pass.
Needs    Vectors of the model: `lvlm-fix vectors make --kind vti`.
Departs  The visual half is not here: it needs a vector for each place of the vision tower, from
         fifty masked copies of each photo. The textual one is measured without it (the authors'
         code measures it with the visual one attached). Where a norm follows the MLP, the edit is
         in front of it (ours).
Cost     Some products of the width in each layer and row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtLayer, setting
from lvlm_fix.vectors.steers import Steers
from lvlm_fix.vectors.turning import turned

__all__ = ["VTI"]


@dataclass(frozen=True)
class VTI(Steers):
    """`m ← n(n(m) + 0.1·α·n(v_l))·‖m‖`, where n makes a length of 1, m is what the MLP writes."""

    strength: float = setting(0.9, "textual α, unitless; 0: nothing", "authors' code, MMHal", low=0)

    part: ClassVar[Literal["layer", "mlp"]] = "mlp"
    paper: ClassVar[str] = "arXiv 2410.15778"

    def hidden_states(
        self, hidden: Float[Tensor, "batch query width"], at: AtLayer
    ) -> Float[Tensor, "batch query width"]:
        if self.strength == 0:
            return hidden
        return turned(hidden, at[self.steering], 0.1 * self.strength)
