"""ICD: contrast the next token's logits with those under a disturbed instruction.

Paper    Wang et al., "Mitigating Hallucinations in Large Vision-Language Models with Instruction
         Contrastive Decoding", ACL 2024 findings, arXiv 2403.18715.
Edits    next_token_logits.
Needs    A second branch with words that disturb put in front of the instruction, behind the image.
Departs  The Q-Former of InstructBLIP gets the plain instruction. The words' default is quoted
         second hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.contrast import contrasted
from lvlm_fix.method import Method, Seen, setting
from lvlm_fix.views import DisturbedPrompt, View

__all__ = ["ICD"]

WORDS = (
    " You are a confused objects detector to provide a fuzzy overview or impression of the image."
)


@dataclass(frozen=True)
class ICD(Method):
    """`(1+α)·l(instruction) − α·l(disturbed instruction)` over the tokens with `l ≥ log β + max l`."""

    strength: float = setting(1.0, "contrast α, unitless; 0 does not contrast", "paper", low=0)
    plausible: float = setting(
        0.1, "least share β of the likeliest token's probability, 0 to 1", "paper", low=0, high=1
    )
    words: str = setting(WORDS, "the words that disturb", "paper, second hand")
    tokens: tuple[int, ...] | None = setting(
        None, "their token ids; none: by the model's tokenizer", "ours", low=0
    )

    paper: ClassVar[str] = "arXiv 2403.18715"

    def second_view(self) -> View | None:
        return DisturbedPrompt(self.words, self.tokens) if self.strength else None

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], seen: Seen
    ) -> Float[Tensor, "batch vocabulary"]:
        other = logits if seen.other is None else seen.other
        return contrasted(logits.float(), other.float(), self.strength, self.plausible)
