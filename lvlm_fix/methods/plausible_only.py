"""Plausible only: the control for every contrast method, the plausibility rule without a contrast.

Paper    "The Mirage of Performance Gains", arXiv 2504.10020 (its `apc`).
Code     β is that of the released run.
Edits    next_token_logits.
Departs  none. Greedy texts stay as they are; it shows what sampling gains from the rule.
Cost     none
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.contrast import plausible
from lvlm_fix.method import AtToken, Method, setting

__all__ = ["PlausibleOnly"]


@dataclass(frozen=True)
class PlausibleOnly(Method):
    """Tokens with less than β of the likeliest one's probability get −inf."""

    least: float = setting(
        0.2, "least share β of the likeliest token's probability; 0: all", "authors' code", low=0,
        high=1,
    )  # fmt: skip

    control: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2504.10020"

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.least == 0:
            return logits
        return logits.masked_fill(~plausible(logits.float(), self.least), -math.inf)
