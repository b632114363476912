"""Random vector: the control for every method that steers.

Paper    none. It answers: would *any* direction of that length have done?
Edits    hidden_states: what a decoder layer gives, all rows but padding, in every pass.
Needs    The vectors of the method that it is compared with.
Departs  Directions are drawn uniformly, by seed and layer, the same for all samples.
Cost     One addition in each layer that acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lvlm_fix.method import AtLayer, setting
from lvlm_fix.methods.steer import added
from lvlm_fix.vectors.steers import Steers
from lvlm_fix.vectors.vectors import Vectors
from lvlm_fix.watches import Steering

__all__ = ["RandomVector"]


@dataclass(frozen=True)
class RandomVector(Steers):
    """Steer's edit, with random directions of the same lengths."""

    strength: float = setting(
        1.0, "factor c on the vectors, unitless; 0: nothing", "steer's strength"
    )
    keep_norm: bool = setting(False, "hidden states keep their length", "steer's keep_norm")
    seed: int = setting(0, "which directions are drawn", "ours", low=0)

    control: ClassVar[bool] = True

    @cached_property
    def steering(self) -> Steering:
        rows = {layer: self._drawn(layer, row) for layer, row in self.given().rows.items()}
        return Steering(Vectors(rows, self.given().source))

    def _drawn(self, layer: int, row: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
        """A direction as long as `row`."""
        seed = torch.Generator().manual_seed(1_000_003 * self.seed + layer)
        return normalize(torch.randn(len(row), generator=seed), dim=0) * row.float().norm()

    def hidden_states(
        self, hidden: Float[Tensor, "batch query width"], at: AtLayer
    ) -> Float[Tensor, "batch query width"]:
        if self.strength == 0:
            return hidden
        return added(hidden, at[self.steering], self.strength, self.keep_norm)
