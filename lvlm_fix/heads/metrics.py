"""Head scores by name: rules by which a method can pick heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, where

from lvlm_fix.core.at import AtLayer, Watch
from lvlm_fix.core.method import Method
from lvlm_fix.core.settings import check_settings, setting
from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.watches.heads import HeadRule, PickedHeads
from lvlm_fix.watches.no_image import WithoutImage
from lvlm_fix.watches.rows import LastRows, Prompted, TextRows

__all__ = [
    "METRICS",
    "VHD",
    "ImageCentric",
    "RandomDraw",
    "RetrievalPicture",
    "RetrievalPrompt",
    "Scored",
    "SpinScore",
]


@dataclass(frozen=True)
class VHD(HeadRule):
    """Vision-aware Head Divergence at the last prompt position (arXiv 2412.13949, eq. 4 and 6)."""

    outliers: bool = setting(
        True, "zero the heads that are outliers with and without image", "paper eq. 6"
    )

    paper: ClassVar[str] = "arXiv 2412.13949"

    def __post_init__(self) -> None:
        check_settings(self)

    def watches(self) -> tuple[Watch[Any], ...]:
        return (WithoutImage(),)

    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        assert at.outputs is not None
        return vision_aware_divergence(at.outputs, at[WithoutImage()], outliers=self.outliers)


@dataclass(frozen=True)
class RandomDraw(HeadRule):
    """A random number per head, by seed and layer; the half with the larger numbers is picked."""

    seed: int = 0

    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        assert at.outputs is not None
        generator = torch.Generator().manual_seed(self.seed * 1009 + at.layer)
        batch, heads = at.outputs.shape[:2]
        return torch.rand(heads, generator=generator).to(at.outputs.device).expand(batch, heads)

    def choose(self, scores: Float[Tensor, "batch heads"]) -> Bool[Tensor, "batch heads"]:
        return scores.argsort(-1).argsort(-1) >= scores.shape[1] - scores.shape[1] // 2


@dataclass(frozen=True)
class ImageCentric(HeadRule):
    """Share of the last prompt position's attention on image tokens, `Σ_V A` (arXiv 2503.03321)."""

    paper: ClassVar[str] = "arXiv 2503.03321"

    def watches(self) -> tuple[Watch[Any], ...]:
        return (LastRows(),)

    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        return (at[LastRows()].weights[:, :, 0] * at.image[:, None]).sum(-1)


@dataclass(frozen=True)
class SpinScore(HeadRule):
    """Sum of the last prompt position's attention logits for image tokens, by which SPIN picks
    (arXiv 2505.16411).
    """

    paper: ClassVar[str] = "arXiv 2505.16411"

    def watches(self) -> tuple[Watch[Any], ...]:
        return (LastRows(),)

    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        return where(at.image[:, None], at[LastRows()].logits[:, :, 0], 0.0).sum(-1)


@dataclass(frozen=True)
class RetrievalPicture(HeadRule):
    """Fraction of a text's tokens for which the head looks most at an image token: it copies from
    the picture.

    After the retrieval heads of Wu et al., arXiv 2404.15574. That any image token counts as a hit
    is ours, because image tokens have no word to compare with. Counted over all text rows after the
    image.
    """

    paper: ClassVar[str] = "arXiv 2404.15574"
    of_answer: ClassVar[bool] = True

    def watches(self) -> tuple[Watch[Any], ...]:
        return (TextRows(),)

    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        found = at[TextRows()]
        most = found.weights.argmax(-1)  # batch heads query
        hit = at.image[:, None].expand(-1, most.shape[1], -1).gather(-1, most)
        return _fraction(hit, found)


@dataclass(frozen=True)
class RetrievalPrompt(HeadRule):
    """Fraction of a text's tokens that equal the earlier token at which the head looks most: it
    copies them.

    The retrieval score of Wu et al., arXiv 2404.15574, over all text rows after the image whose
    next token is known.
    """

    paper: ClassVar[str] = "arXiv 2404.15574"
    of_answer: ClassVar[bool] = True

    def watches(self) -> tuple[Watch[Any], ...]:
        return (TextRows(),)

    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        found = at[TextRows()]
        most = found.weights.argmax(-1)
        looked = found.ids[:, None].expand(-1, most.shape[1], -1).gather(-1, most)
        # batch query
        said = found.ids[:, (found.positions + 1).clamp_max(found.ids.shape[1] - 1)]
        return _fraction(looked == said[:, None], found)


METRICS: dict[str, type[HeadRule]] = {
    "vhd": VHD,
    "image-centric": ImageCentric,
    "spin": SpinScore,
    "retrieval-picture": RetrievalPicture,
    "retrieval-prompt": RetrievalPrompt,
}


@dataclass(frozen=True)
class Scored(Method):
    """Scores heads by a rule and edits nothing, so scoring never changes a text."""

    rule: HeadRule

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (PickedHeads(self.rule),)


def _fraction(
    hit: Bool[Tensor, "batch heads query"], found: Prompted
) -> Float[Tensor, "batch heads"]:
    """The share of hits over the text rows that predict a token we know: all but the last."""
    rows = (found.rows & (found.positions < found.ids.shape[1] - 1))[:, None]
    return (hit & rows).sum(-1) / rows.sum(-1).clamp_min(1)
