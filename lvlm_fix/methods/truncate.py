"""Truncate: the control for every method that makes texts shorter.

Paper    none. It answers: would ending the text earlier have done?
Edits    next_token_logits.
Needs    EndTokens: the tokens that end a text, from the model's generation settings.
Departs  ours.
Cost     none
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import EndTokens

__all__ = ["Truncate"]


@dataclass(frozen=True)
class Truncate(Method):
    """After `tokens` tokens, only the end is possible."""

    tokens: int = setting(20, "longest text, tokens; 0: no limit", "ours", low=0)

    control: ClassVar[bool] = True

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (EndTokens(),)

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.tokens == 0 or at.step < self.tokens:
            return logits
        ends = at[EndTokens()]
        only = logits.new_full(logits.shape, -math.inf)
        return only.index_copy(-1, ends, logits.index_select(-1, ends))
