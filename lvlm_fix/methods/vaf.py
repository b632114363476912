"""VAF: in the middle layers, raise the logits of image keys and lower those of the system prompt.

Paper    Yin et al., "ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation",
         CVPR 2025, arXiv 2503.13107.
Edits    attention_logits of text rows, layers 9 to 14 of 32.
Departs  Other depths take the same fractions of the depth (ours). The system prompt is everything
         before the image.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import AtLayer, Method, setting

__all__ = ["VAF"]


@dataclass(frozen=True)
class VAF(Method):
    """Logits of image keys times `image`, of system-prompt keys times `system`; 1 and 1 change
    nothing.
    """

    image: float = setting(1.15, "factor on the logits of image keys", "paper", low=0)
    system: float = setting(0.95, "factor on the logits of the system prompt", "paper", low=0)

    paper: ClassVar[str] = "arXiv 2503.13107"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(round(layers * 9 / 32), round(layers * 15 / 32))

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if self.image == self.system == 1:
            return logits
        raised = where(at.image[:, None, None], logits * self.image, logits)
        return where(at.before_image[:, None, None], raised * self.system, raised)
