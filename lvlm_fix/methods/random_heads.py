"""Random heads: the control for every method that picks heads.

Paper    none. It answers: would *any* heads have done?
Edits    head_outputs
Departs  draws as many heads as VHR picks (half, rounded down) in VHR's layers, by seed and layer,
         the same for all samples.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.heads.metrics import RandomDraw
from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.methods.vhr import default_layers, reinforced
from lvlm_fix.watches import PickedHeads

__all__ = ["RandomHeads"]


@dataclass(frozen=True)
class RandomHeads(Method):
    """VHR's gain on the same number of random heads."""

    strength: float = setting(
        2.0, "factor on the chosen heads' outputs; 1 changes nothing", "VHR's α", low=0, high=10
    )
    seed: int = setting(0, "which heads are drawn", "ours", low=0)
    layers: tuple[int, ...] | None = setting(None, "layers to act in", "VHR's", low=0)

    control: ClassVar[bool] = True

    def acts_in(self, layers: int) -> Collection[int]:
        return default_layers(layers) if self.layers is None else self.layers

    def picks(self) -> PickedHeads:
        """The watch of the drawn heads."""
        return PickedHeads(RandomDraw(self.seed))

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.picks(),)

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], at: AtLayer
    ) -> Float[Tensor, "batch query heads dim"]:
        picked = at[self.picks()]
        if picked is None or self.strength == 1:
            return outputs
        return reinforced(outputs, picked.heads, self.strength)
