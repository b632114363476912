"""SLA: mix the logits of late early layers into the next token's.

Paper    Li et al., "The Hidden Life of Tokens" (VISTA, its Self-Logits Augmentation), ICML 2025,
         arXiv 2502.03628.
Code     The window and γ are those of the authors' code; the early states skip the final norm.
Edits    next_token_logits.
Needs    EarlyLayers: what leaves layers 25 to 30 of 32, through the head alone.
Departs  Other depths take the same fractions of the depth (ours).
Cost     One product of the head per layer of the window and token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import EarlyLayers

__all__ = ["SLA"]


@dataclass(frozen=True)
class SLA(Method):
    """`γ·mean_l head(h_l) + (1−γ)·l` over a window of layers."""

    strength: float = setting(0.3, "weight γ of the window; 0: off", "authors' code", low=0, high=1)

    paper: ClassVar[str] = "arXiv 2502.03628"

    def early(self, layers: int) -> EarlyLayers:
        """The window: what enters layers 26 to 31 of 32."""
        window = range(round(26 * layers / 32), layers)
        return EarlyLayers(tuple(window), norm=False)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.early(layers),) if self.strength else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.strength == 0:
            return logits
        window = at[self.early(at.layers)].float().mean(1)
        return self.strength * window + (1 - self.strength) * logits.float()
