"""DeCo: add the logits of the early layer that is surest of a likely word to the last layer's.

Paper    Wang et al., "MLLM can see? Dynamic Correction Decoding for Hallucination Mitigation",
         ICLR 2025, arXiv 2410.11779.
Code     The window of layers, the choice of candidates and α are those of the authors' code; its
         argument table says 0.5 for α, its script 0.6.
Edits    next_token_logits.
Needs    EarlyLayers: what leaves layers 19 to 27 of 32, through final norm and head.
Departs  Other depths take the same fractions of the depth (ours). A strength of 0 changes nothing
         (ours: by the formula, words that are not candidates would be lost).
Cost     One product of norm and head per candidate layer and token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import EarlyLayers

__all__ = ["DeCo", "candidates"]


def candidates(
    logits: Float[Tensor, "batch vocabulary"], share: float, most: int
) -> Bool[Tensor, "batch vocabulary"]:
    """The fewest likeliest tokens that reach `share` of the probability together, `most`
    at most.
    """
    found, order = logits.softmax(-1).topk(min(most, logits.shape[-1]), dim=-1)
    before = found.cumsum(-1) - found  # a token counts where those before it fall short
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < share)


@dataclass(frozen=True)
class DeCo(Method):
    """`l + α·q*·l*` over the candidates, where l* are the logits of the early layer that gives a
    candidate the largest probability q* of all.
    """

    strength: float = setting(0.6, "weight α of the early layer; 0: off", "authors' code", low=0)
    share: float = setting(
        0.9,
        "probability that the candidates reach together, 0 to 1",
        "authors' code",
        low=0,
        high=1,
    )
    most: int = setting(20, "candidates at most, tokens", "authors' code", low=1)

    paper: ClassVar[str] = "arXiv 2410.11779"

    def early(self, layers: int) -> EarlyLayers:
        """The candidate layers: what enters layers 20 to 28 of 32."""
        return EarlyLayers(tuple(range(round(20 * layers / 32), round(29 * layers / 32))))

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.early(layers),) if self.strength else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.strength == 0:
            return logits
        early = at[self.early(at.layers)].float()
        kept = candidates(logits.float(), self.share, self.most)
        sure = early.softmax(-1).masked_fill(~kept[:, None], 0.0).amax(-1)  # batch layers
        surest, layer = sure.max(-1)
        chosen = early[torch.arange(len(layer), device=layer.device), layer]
        mixed = logits.float() + self.strength * surest[:, None] * chosen
        return mixed.masked_fill(~kept, -math.inf)
