"""SAVVA: where the last token was a risk, raise the image's logits and damp the prompt's text.

Paper    "SAVVA", first named AdaVBoost, arXiv 2602.13600.
Code     The risk, both factors and the layers are those of the authors' code, with its settings for
         LLaVA-NeXT; for Qwen3-VL a and s are 0.6, layers 4 to 14 of 36, and both factors 1.3.
Edits    attention_logits of the last row, layers 0 to 14 of 32, once something is written.
Needs    Risk: the last token's entropy, and whether any image row predicts it; a pass over the
         prompt. Written: which keys were generated.
Departs  Other depths take the same fraction of the depth (ours). It takes one row a pass: drafts,
         and passes without cache, are refused. As in the code, a logit is multiplied, so a negative
         one moves the other way.
Cost     A second prefill with the logits of the image's rows; the last row in the layers that act.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.watches import Risk, Written

__all__ = ["SAVVA"]


@dataclass(frozen=True)
class SAVVA(Method):
    """`a_j ← a_j·(1 + (m_v − 1)·risk)` for image keys, `a_j ← a_j/m_t` for keys of the prompt's
    text; nothing if the risk is 0.
    """

    image: float = setting(
        1.1, "factor m_v on image logits at a risk of 1; 1: none", "authors' code", low=1
    )
    text: float = setting(
        1.7, "divisor m_t of the prompt's text logits; 1: none", "authors' code", low=1
    )
    entropy: float = setting(
        0.5, "weight a of the entropy in the risk, 0 to 1", "authors' code", low=0, high=1
    )
    scale: float = setting(0.5, "what counts as a risk of 1", "authors' code", low=0.01)

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2602.13600"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(max(1, round(15 * layers / 32)))

    def risk(self) -> Risk:
        """The risk of the last token."""
        return Risk(self.entropy, self.scale)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return () if self.image == self.text == 1 else (self.risk(), Written())

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.image == self.text == 1 or at.prompt_rows == at.queries:
            return logits
        risk = at[self.risk()][:, None]
        words = ~at.image & ~at[Written()]
        factor = where(at.image, 1 + (self.image - 1) * risk, where(words, 1 / self.text, 1.0))
        return logits * where(risk > 0, factor, 1.0)[:, None, None]
