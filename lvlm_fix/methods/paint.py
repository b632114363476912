"""PAINT: raise the logits of the image tokens that the vision tower itself attends to; then PAI's
refinement.

Paper    Arif et al., "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large
         Vision-Language Model", arXiv 2501.12206.
Code     the authors': which tokens are local and which summary, and the edit, are the code's.
Edits    attention_logits of the last row, from layer 2; next_token_logits.
Needs    vision: the attention of the vision tower's CLS token, so a tower that has one and image
         tokens that are its patches one to one. A second branch without the image, for the
         refinement.
Departs  Several photos of one sample are ranked together (ours). The head-specific modulation that
         the abstract claims is not in the code: here a table (VHD) weighs α and β by a head's score
         over its layer's mean, or picks the heads that are edited (ours).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, stack, where, zeros_like

from lvlm_fix.contrast import refined
from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.method import Need, Seen, setting
from lvlm_fix.views import NoImage, View

__all__ = ["PAINT", "local_and_summary"]


def local_and_summary(
    first: Float[Tensor, " patches"], penultimate: Float[Tensor, " patches"], share: float = 0.25
) -> tuple[Bool[Tensor, " patches"], Bool[Tensor, " patches"]]:
    """Local tokens, the `share` with the most CLS attention in the first layer; summary tokens,
    outliers in the last but one (above Q3 + 1.5·IQR). A summary token is not local."""
    low, high = penultimate.quantile(0.25), penultimate.quantile(0.75)
    summary = penultimate > high + 1.5 * (high - low)
    local = zeros_like(summary)
    local[first.topk(int(share * len(first))).indices] = True
    return local & ~summary, summary


@dataclass(frozen=True)
class PAINT(PicksHeads):
    """`a_j ← a_j + α·|a_j|` for local image tokens j, `a_j + β·|a_j|` for summary ones; then PAI's
    refinement.
    """

    local: float = setting(
        0.7, "share α of a local token's logit that is added; 0: nothing", "authors' code", low=0
    )
    summary: float = setting(0.4, "the same, β, for summary tokens", "authors' code", low=0)
    share: float = setting(
        0.25, "fraction of the image tokens that are local", "authors' code", low=0, high=1
    )
    contrast: float = setting(
        1.1, "refinement γ, unitless; 1: the next token is not refined", "paper", low=0
    )
    plausible: float = setting(
        0.1,
        "least share of the likeliest token's probability, 0 to 1",
        "PAI's paper",
        low=0,
        high=1,
    )
    first_layer: int = setting(2, "first layer that is edited", "authors' code", low=0)
    table_use: str = setting(
        "weigh",
        "what a table does: weigh α and β, or pick the heads",
        "ours",
        options=("weigh", "pick"),
    )

    needs: ClassVar[frozenset[Need]] = frozenset({"vision"})
    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2501.12206"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(self.first_layer, layers)

    def mark_tokens(
        self, vision: Float[Tensor, "batch 2 columns"], image: Bool[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch columns"]:
        return stack(
            [self._marks(pair[0], pair[1], here) for pair, here in zip(vision, image, strict=True)]
        )

    def _marks(
        self,
        first: Float[Tensor, " columns"],
        penultimate: Float[Tensor, " columns"],
        image: Bool[Tensor, " columns"],
    ) -> Float[Tensor, " columns"]:
        marks = zeros_like(first)
        if image.any():
            local, summary = local_and_summary(first[image], penultimate[image], self.share)
            marks[image] = self.local * local + self.summary * summary
        return marks

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], seen: Seen
    ) -> Float[Tensor, "batch heads query key"]:
        if self.local == self.summary == 0:
            return logits
        assert seen.marks is not None
        marks = seen.marks[:, None, None]
        if seen.heads is not None and self.table_use == "pick":
            marks = marks * seen.heads[..., None, None]
        elif seen.scores is not None:
            scores = seen.scores.clamp_min(0)
            marks = (
                marks * (scores / scores.mean(-1, keepdim=True).clamp_min(1e-12))[..., None, None]
            )
        return where(marks > 0, logits + marks * logits.abs(), logits)

    def second_view(self) -> View | None:
        return None if self.contrast == 1 else NoImage()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], seen: Seen
    ) -> Float[Tensor, "batch vocabulary"]:
        if seen.other is None:
            return logits
        return refined(logits.float(), seen.other.float(), self.contrast, self.plausible)
