"""VHR: scale the heads whose output depends on the image.

Paper    He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence",
         ACL 2025, arXiv 2412.13949: VHD eq. 4, outliers eq. 6, reinforcement eq. 7, selection alg.
         1, layers sec. 4.4.
Code     none; a literal two-pass implementation in `tests/literal.py`.
Edits    head_outputs
Needs    no_image: one text-only pass over the prompt; nothing if a table picks the heads.
Departs  The paper leaves some points open, and we choose: the image is removed by deleting its
         tokens; deviations are of the population; all prompt positions are scaled, not just the
         last; the pass without image is not reinforced, because it runs before the heads are known;
         depths other than 32 take the second layer and the last 14/32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, addcmul, cat

from lvlm_fix.heads.metrics import VHD
from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.method import AtLayer, setting
from lvlm_fix.watches import HeadRule

__all__ = ["VHR", "default_layers", "reinforced"]


def default_layers(layers: int) -> tuple[int, ...]:
    """The second layer and the last 14/32 of `layers`: {1} ∪ {18..31} at 32 (paper sec. 4.4)."""
    first = layers - round(14 * layers / 32)
    return tuple(layer for layer in range(layers) if layer == 1 or layer >= first)


def reinforced(
    outputs: Float[Tensor, "batch query heads dim"],
    heads: Bool[Tensor, "batch heads"],
    strength: float,
) -> Float[Tensor, "batch query heads dim"]:
    """The outputs of the chosen heads times `strength` (paper eq. 7)."""
    return addcmul(outputs, outputs, heads[:, None, :, None], value=strength - 1)


@dataclass(frozen=True)
class VHR(PicksHeads):
    """Vision-aware Head Reinforcement: `o ← α·o` for the heads with the larger VHD, chosen once per
    sample.
    """

    strength: float = setting(
        2.0,
        "factor α on the chosen heads' outputs; 1 changes nothing",
        "paper eq. 7",
        low=0,
        high=10,
    )
    outliers: bool = setting(
        True, "zero the VHD of heads that are outliers with and without image", "paper eq. 6"
    )
    prefill: bool = setting(
        True, "scale the prompt's positions too", "ours: the paper does not say"
    )
    layers: tuple[int, ...] | None = setting(
        None, "layers to act in", "paper sec. 4.4, scaled to the depth", low=0
    )

    paper: ClassVar[str] = "arXiv 2412.13949"

    def acts_in(self, layers: int) -> Collection[int]:
        return default_layers(layers) if self.layers is None else self.layers

    @property
    def rule(self) -> HeadRule:
        return VHD(self.outliers)

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], at: AtLayer
    ) -> Float[Tensor, "batch query heads dim"]:
        picked = self.picked(at)
        if picked is None or self.strength == 1:
            return outputs
        if self.prefill or not at.prompt_rows:
            return reinforced(outputs, picked.heads, self.strength)
        if at.prompt_rows == outputs.shape[1]:
            return outputs
        prompt, text = outputs[:, : at.prompt_rows], outputs[:, at.prompt_rows :]
        return cat((prompt, reinforced(text, picked.heads, self.strength)), dim=1)
