"""VHR: scale the heads whose output depends on the image.

Paper    He et al., "Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence",
         ACL 2025, arXiv 2412.13949: VHD eq. 4, outliers eq. 6, reinforcement eq. 7, selection alg.
         1, layers sec. 4.4.
Code     none; a literal two-pass implementation in `tests/literal.py`.
Edits    head_outputs
Needs    no_image: one text-only pass over the prompt; nothing where a table picks the heads.
Departs  The paper leaves open, and we choose: the image is removed by deleting its tokens;
         deviations are of the population; all prompt positions are scaled, not the last alone; the
         pass without image is not reinforced, for it runs before the heads are known; other depths
         than 32 take the second layer and the last 14/32.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, where

from lvlm_fix.heads.picks import PicksHeads, upper_half
from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.method import Need, Seen, setting

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
    return where(heads[:, None, :, None], outputs * strength, outputs)


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

    needs: ClassVar[frozenset[Need]] = frozenset({"no_image"})
    paper: ClassVar[str] = "arXiv 2412.13949"

    def acts_in(self, layers: int) -> Collection[int]:
        return default_layers(layers) if self.layers is None else self.layers

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.outputs is not None and seen.no_image is not None
        return vision_aware_divergence(seen.outputs, seen.no_image, outliers=self.outliers)

    def choose_heads(
        self, scores: Float[Tensor, "batch heads"], seen: Seen
    ) -> Bool[Tensor, "batch heads"]:
        return upper_half(scores)

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], seen: Seen
    ) -> Float[Tensor, "batch query heads dim"]:
        if seen.heads is None or self.strength == 1 or (seen.prefill and not self.prefill):
            return outputs
        return reinforced(outputs, seen.heads, self.strength)
