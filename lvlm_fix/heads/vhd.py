"""VHD: how far a head's output moves when the image is removed (arXiv 2412.13949, eq. 4 to 6)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, linalg

__all__ = ["vision_aware_divergence"]


def vision_aware_divergence(
    with_image: Float[Tensor, "*rest heads dim"],
    without: Float[Tensor, "*rest heads dim"],
    *,
    outliers: bool = True,
) -> Float[Tensor, "*rest heads"]:
    """Euclidean distance of each head's output with and without the image (eq. 4), unitless, not
    normalised.

    With `outliers`, a head whose distance *and* whose squared output norm without image (eq. 5:
    text activation) both exceed mean + one population deviation over the layer's heads is set to 0
    (eq. 6).
    """
    divergence = linalg.vector_norm(with_image.float() - without.float(), dim=-1)
    if not outliers:
        return divergence
    text_activation = without.float().square().sum(-1)
    outlying = _above(divergence) & _above(text_activation)
    return divergence.masked_fill(outlying, 0.0)


def _above(values: Tensor) -> Tensor:
    """Where a value exceeds mean + population deviation over the last axis."""
    return values > values.mean(-1, keepdim=True) + values.std(-1, correction=0, keepdim=True)
