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
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.contrast import contrasted
from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import Branch, DisturbedPrompt

__all__ = ["ICD"]

WORDS = (
    " You are a confused objects detector to provide a fuzzy overview or impression of the image."
)


@dataclass(frozen=True)
class ICD(Method):
    """`(1+α)·l(instruction) − α·l(disturbed instruction)` over the tokens with `l ≥ log
    β + max l`.
    """

    strength: float = setting(1.0, "contrast α, unitless; 0 does not contrast", "paper", low=0)
    plausible: float = setting(
        0.1, "least share β of the likeliest token's probability, 0 to 1", "paper", low=0, high=1
    )
    words: str = setting(WORDS, "the words that disturb", "paper, second hand")
    tokens: tuple[int, ...] | None = setting(
        None, "their token ids; none: by the model's tokenizer", "ours", low=0
    )

    paper: ClassVar[str] = "arXiv 2403.18715"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(DisturbedPrompt(self.words, self.tokens))

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.branch(),) if self.strength else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        other = at[self.branch()] if self.strength else logits
        return contrasted(logits.float(), other.float(), self.strength, self.plausible)
