"""VCD: contrast the next token's logits with those under a noised image.

Paper    Leng et al., "Mitigating Object Hallucinations through Visual Contrastive Decoding", CVPR
         2024, arXiv 2311.16922.
Code     The noise schedule is that of the authors' code.
Edits    next_token_logits.
Needs    A second branch whose image carries diffusion noise.
Departs  The noise comes from a seed and is the same for every photo of a size, so that a batch
         equals one by one (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.contrast import contrasted
from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import Branch, NoisedImage

__all__ = ["VCD"]


@dataclass(frozen=True)
class VCD(Method):
    """`(1+α)·l(image) − α·l(noised image)` over the tokens with `l ≥ log β + max l`."""

    strength: float = setting(1.0, "contrast α, unitless; 0 does not contrast", "paper", low=0)
    plausible: float = setting(
        0.1, "least share β of the likeliest token's probability, 0 to 1", "paper", low=0, high=1
    )
    step: int = setting(500, "diffusion steps of noise, of 1000", "paper", low=0, high=999)
    seed: int = setting(0, "seed of the noise", "ours", low=0)

    paper: ClassVar[str] = "arXiv 2311.16922"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(NoisedImage(self.step, self.seed))

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.branch(),) if self.strength else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        other = at[self.branch()] if self.strength else logits
        return contrasted(logits.float(), other.float(), self.strength, self.plausible)
