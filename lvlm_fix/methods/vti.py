"""VTI: turn the MLPs' outputs towards right captions, in a direction measured beforehand.

Paper    Liu, Ye, Zou, "Reducing Hallucinations in Vision-Language Models via Latent Space
         Steering", ICLR 2025, arXiv 2410.15778.
Code     The edit and α are those of the authors' code, whose only released run is MMHal's; values
         for captions were not released.
Edits    hidden_states: what an MLP writes, all rows but padding, in every pass. With `visual`, what
         the MLPs of the vision tower write, too.
Needs    Vectors of the model: `lvlm-fix vectors make --kind vti`. `visual` needs those of the
         vision tower in the same file, tower.N for its layer N from 0, places × width; they are
         not made here.
Departs  The visual half is off by default (ours; the authors' code has α = 0.9 for both), and the
         textual vectors are measured without it (theirs with it). If a norm follows the MLP, the
         edit comes before it (ours).
Cost     Some products of the width in each layer and row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtLayer, Watch, setting
from lvlm_fix.vectors.steers import Steers
from lvlm_fix.vectors.turning import turned
from lvlm_fix.watches import TowerSteering

__all__ = ["VTI"]


@dataclass(frozen=True)
class VTI(Steers):
    """`m ← n(n(m) + 0.1·α·n(v_l))·‖m‖`, where n scales to length 1 and m is what the MLP writes."""

    strength: float = setting(0.9, "textual α, unitless; 0: nothing", "authors' code, MMHal", low=0)

    visual: float = setting(
        0.0, "visual α, unitless; 0: the vision tower is left alone", "ours", low=0
    )

    part: ClassVar[Literal["layer", "mlp"]] = "mlp"
    paper: ClassVar[str] = "arXiv 2410.15778"

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.steering, self.looking) if self.visual else (self.steering,)

    @cached_property
    def looking(self) -> TowerSteering:
        """The watch of the vision tower."""
        return TowerSteering(self.given(), 0.1 * self.visual)

    def hidden_states(
        self, hidden: Float[Tensor, "batch query width"], at: AtLayer
    ) -> Float[Tensor, "batch query width"]:
        if self.strength == 0:
            return hidden
        return turned(hidden, at[self.steering], 0.1 * self.strength)
