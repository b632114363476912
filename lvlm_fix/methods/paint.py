"""PAINT: raise the logits of the image tokens that the vision tower itself attends to; then PAI's
refinement.

Paper    Arif et al., "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large
         Vision-Language Model", arXiv 2501.12206.
Code     the authors': the choice of local and summary tokens, and the edit, are the code's.
Edits    attention_logits of the last row, from layer 2; next_token_logits.
Needs    vision: the attention of the vision tower's CLS token. So the tower must have a CLS token,
         and its patches must be the image tokens one to one. A second branch without the image, for
         the refinement.
Departs  Several photos of one sample are ranked together (ours). The head-specific modulation that
         the abstract claims is not in the code: here a table (VHD) weighs α and β by a head's score
         over its layer's mean, or picks the heads that are edited (ours).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.contrast import refined
from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.method import AtLayer, AtToken, Watch, setting
from lvlm_fix.watches import Branch, NoImage, TowerLooks

__all__ = ["PAINT"]

WITHOUT = Branch(NoImage())


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

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2501.12206"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(self.first_layer, layers)

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.local == self.summary == 0:
            return logits
        local, summary = at[TowerLooks(self.share)][:, :, None, None].unbind(1)
        marks, picked = self.local * local + self.summary * summary, self.picked(at)
        if picked is not None and self.table_use == "pick":
            marks = marks * picked.heads[..., None, None]
        elif picked is not None:
            scores = picked.scores.clamp_min(0)
            marks = (
                marks * (scores / scores.mean(-1, keepdim=True).clamp_min(1e-12))[..., None, None]
            )
        return where(marks > 0, logits + marks * logits.abs(), logits)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        refining = () if self.contrast == 1 else (WITHOUT,)
        return (*super().watches(layers), TowerLooks(self.share), *refining)

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.contrast == 1:
            return logits
        return refined(logits.float(), at[WITHOUT].float(), self.contrast, self.plausible)
