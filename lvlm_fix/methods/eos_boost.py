"""EOS boost: the control for every method that makes texts shorter by ending them.

Paper    none. It answers: would ending the text earlier have done?
Edits    next_token_logits.
Needs    EndTokens: the tokens that end a text, from the model's generation settings.
Departs  ours.
Cost     none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import EndTokens

__all__ = ["EosBoost"]


@dataclass(frozen=True)
class EosBoost(Method):
    """`l_e ← l_e + b` for the tokens e that end a text."""

    boost: float = setting(1.0, "what is added, in logits; 0: nothing", "ours")

    control: ClassVar[bool] = True

    @classmethod
    def method_name(cls) -> str:
        return "eos-boost"

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (EndTokens(),)

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.boost == 0:
            return logits
        ends = at[EndTokens()]
        return logits.index_add(-1, ends, logits.new_full((len(logits), len(ends)), self.boost))
