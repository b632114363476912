"""Head scores by name. A metric is a method that scores heads and edits nothing, so scoring never
changes a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, arange, where

from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.method import Method, Need, Seen, setting

__all__ = ["METRICS", "VHD", "ImageCentric", "RetrievalPicture", "RetrievalPrompt", "SpinScore"]


@dataclass(frozen=True)
class VHD(Method):
    """Vision-aware Head Divergence at the last prompt position (arXiv 2412.13949, eq. 4 and 6)."""

    outliers: bool = setting(
        True, "zero the heads that are outliers with and without image", "paper eq. 6"
    )

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
        return (_last(seen.weights, seen) * seen.image[:, None]).sum(-1)


@dataclass(frozen=True)
class SpinScore(Method):
    """Sum of the last prompt position's attention logits of image tokens, by which SPIN picks
    (arXiv 2505.16411).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"weights"})
    paper: ClassVar[str] = "arXiv 2505.16411"

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.logits is not None
        return where(seen.image[:, None], _last(seen.logits, seen), 0.0).sum(-1)


@dataclass(frozen=True)
class RetrievalPicture(Method):
    """Fraction of a text's tokens for which the head looks most at an image token: it copies from
    the picture.

    After the retrieval heads of Wu et al., arXiv 2404.15574; that any image token counts as a hit
    is ours, for image tokens have no word to compare with. Counted over all text rows behind the
    image.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"weights", "answer"})
    paper: ClassVar[str] = "arXiv 2404.15574"

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.weights is not None
        most = seen.weights.argmax(-1)  # batch heads query
        hit = seen.image[:, None].expand(-1, most.shape[1], -1).gather(-1, most)
        return _fraction(hit, seen)


@dataclass(frozen=True)
class RetrievalPrompt(Method):
    """Fraction of a text's tokens that stand where the head looks most, among the tokens before: it
    copies them.

    The retrieval score of Wu et al., arXiv 2404.15574, over all text rows behind the image whose
    next token is known.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"weights", "answer"})
    paper: ClassVar[str] = "arXiv 2404.15574"

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"]:
        assert seen.weights is not None and seen.ids is not None and seen.positions is not None
        most = seen.weights.argmax(-1)
        looked = seen.ids[:, None].expand(-1, most.shape[1], -1).gather(-1, most)
        said = seen.ids[:, (seen.positions + 1).clamp_max(seen.ids.shape[1] - 1)]  # batch query
        return _fraction(looked == said[:, None], seen)


METRICS: dict[str, type[Method]] = {
    "vhd": VHD,
    "image-centric": ImageCentric,
    "spin": SpinScore,
    "retrieval-picture": RetrievalPicture,
    "retrieval-prompt": RetrievalPrompt,
}


def _last(
    rows: Float[Tensor, "batch heads query key"], seen: Seen
) -> Float[Tensor, "batch heads key"]:
    """The last prompt row of every sample."""
    return rows[arange(len(rows)), :, seen.last]


def _fraction(hit: Bool[Tensor, "batch heads query"], seen: Seen) -> Float[Tensor, "batch heads"]:
    """The share of hits over the text rows that predict a token we know: all but the last."""
    assert seen.positions is not None and seen.ids is not None
    rows = (seen.rows & (seen.positions < seen.ids.shape[1] - 1))[:, None]
    return (hit & rows).sum(-1) / rows.sum(-1).clamp_min(1)
