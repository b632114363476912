"""VCD: contrast the next token's logits with those under a noised image.

Paper    Leng et al., "Mitigating Object Hallucinations through Visual Contrastive Decoding", CVPR
         2024, arXiv 2311.16922.
Code     The noise schedule is that of the authors' code.
Edits    next_token_logits.
Needs    A second branch whose image carries diffusion noise.
Departs  The noise comes from a seed and is the same for all photos of one size, so a batch gives
         what its photos give one by one (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_fix.contrast import Contrast
from lvlm_fix.method import setting
from lvlm_fix.watches import Branch, NoisedImage

__all__ = ["VCD"]


@dataclass(frozen=True)
class VCD(Contrast):
    """`(1+α)·l(image) − α·l(noised image)` over the tokens with `l ≥ log β + max l`."""

    step: int = setting(500, "diffusion steps of noise, of 1000", "paper", low=0, high=999)
    seed: int = setting(0, "seed of the noise", "ours", low=0)

    paper: ClassVar[str] = "arXiv 2311.16922"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(NoisedImage(self.step, self.seed))
