"""DoLa: contrast the last layer with the early layer that differs from it most.

Paper    Chuang et al., "DoLa: Decoding by Contrasting Layers Improves Factuality", ICLR 2024, arXiv
         2309.03883.
Edits    next_token_logits.
Needs    The hidden states that enter the candidate layers, read as logits.
Departs  Early layers pass the final norm before the head. The strength is ours: 1 is the paper. No
         repetition penalty is added; `generate` has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.contrast import divergence, plausible
from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import EarlyLayers

__all__ = ["DoLa"]


@dataclass(frozen=True)
class DoLa(Method):
    """`log q_N − log q_M` over the plausible tokens; M is the candidate that diverges most from the
    last layer N.
    """

    strength: float = setting(
        1.0, "weight of the early layer, unitless; 0: nothing is subtracted", "ours", low=0
    )
    plausible: float = setting(
        0.1, "least share α of the likeliest token's probability, 0 to 1", "paper", low=0, high=1
    )
    bucket: str = setting(
        "high",
        "half of the layers with the candidates",
        "paper: high for short answers",
        options=("low", "high"),
    )

    paper: ClassVar[str] = "arXiv 2309.03883"

    def early(self, layers: int) -> EarlyLayers:
        """The candidate layers: every other one of a half."""
        half = range(layers // 2) if self.bucket == "low" else range(layers // 2, layers)
        return EarlyLayers(tuple(layer for layer in half if layer % 2 == 0))

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.early(layers),) if self.strength else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        likely = plausible(logits.float(), self.plausible)
        if not self.strength:
            return logits.masked_fill(~likely, -torch.inf)
        last, early = (
            logits.float().log_softmax(-1),
            at[self.early(at.layers)].float().log_softmax(-1),
        )
        most = divergence(last[:, None].expand_as(early), early).argmax(-1)
        chosen = early[torch.arange(len(most), device=most.device), most]
        return (last - self.strength * chosen).masked_fill(~likely, -torch.inf)
