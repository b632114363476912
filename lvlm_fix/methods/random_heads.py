"""Random heads: the control for every method that picks heads.

Paper    none. It answers: would *any* heads have done?
Edits    head_outputs
Departs  as many heads as VHR picks (half, rounded down) in VHR's layers, drawn by seed and layer,
         the same for all samples.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvlm_fix.method import Method, Seen, setting
from lvlm_fix.methods.vhr import default_layers, reinforced

__all__ = ["RandomHeads"]


@dataclass(frozen=True)
class RandomHeads(Method):
    """VHR's gain on as many random heads."""

    strength: float = setting(
        2.0, "factor on the chosen heads' outputs; 1 changes nothing", "VHR's α", low=0, high=10
    )
    seed: int = setting(0, "which heads are drawn", "ours", low=0)
    layers: tuple[int, ...] | None = setting(None, "layers to act in", "VHR's", low=0)

    def acts_in(self, layers: int) -> Collection[int]:
        return default_layers(layers) if self.layers is None else self.layers

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.outputs is not None
        generator = torch.Generator().manual_seed(self.seed * 1009 + seen.layer)
        batch, heads = seen.outputs.shape[:2]
        return torch.rand(heads, generator=generator).to(seen.outputs.device).expand(batch, heads)

    def choose_heads(
        self, scores: Float[Tensor, "batch heads"], seen: Seen
    ) -> Bool[Tensor, "batch heads"]:
        return scores.argsort(-1).argsort(-1) >= scores.shape[1] - scores.shape[1] // 2

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], seen: Seen
    ) -> Float[Tensor, "batch query heads dim"]:
        if seen.heads is None or self.strength == 1:
            return outputs
        return reinforced(outputs, seen.heads, self.strength)
