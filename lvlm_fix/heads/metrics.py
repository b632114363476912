"""Head scores by name. A metric is a method that scores heads and edits nothing, so scoring never changes a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.method import Method, Need, Seen, setting

__all__ = ["METRICS", "VHD", "ImageCentric"]


@dataclass(frozen=True)
class VHD(Method):
    """Vision-aware Head Divergence at the last prompt position (arXiv 2412.13949, eq. 4 and 6)."""

    outliers: bool = setting(True, "zero the heads that are outliers with and without image", "paper eq. 6")

    needs: ClassVar[frozenset[Need]] = frozenset({"no_image"})
    paper: ClassVar[str] = "arXiv 2412.13949"

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.outputs is not None and seen.no_image is not None
        return vision_aware_divergence(seen.outputs, seen.no_image, outliers=self.outliers)


@dataclass(frozen=True)
class ImageCentric(Method):
    """Share of the last prompt position's attention on image tokens, `Σ_V A` (arXiv 2503.03321)."""

    needs: ClassVar[frozenset[Need]] = frozenset({"weights"})
    paper: ClassVar[str] = "arXiv 2503.03321"

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.weights is not None
        return (seen.weights * seen.image[:, None]).sum(-1)


METRICS: dict[str, type[Method]] = {"vhd": VHD, "image-centric": ImageCentric}
