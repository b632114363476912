"""ICD: contrast the next token's logits with those under a disturbed instruction.

Paper    Wang et al., "Mitigating Hallucinations in Large Vision-Language Models with Instruction
         Contrastive Decoding", ACL 2024 findings, arXiv 2403.18715.
Edits    next_token_logits.
Needs    A second branch with disturbing words between the image and the instruction.
Departs  The Q-Former of InstructBLIP gets the plain instruction. The default words are quoted at
         second hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lvlm_fix.contrast import Contrast
from lvlm_fix.method import setting
from lvlm_fix.watches import Branch, DisturbedPrompt

__all__ = ["ICD"]

WORDS = (
    " You are a confused objects detector to provide a fuzzy overview or impression of the image."
)


@dataclass(frozen=True)
class ICD(Contrast):
    """`(1+α)·l(instruction) − α·l(disturbed instruction)` over the tokens with `l ≥ log
    β + max l`.
    """

    words: str = setting(WORDS, "the words that disturb", "paper, second hand")
    tokens: tuple[int, ...] | None = setting(
        None, "their token ids; none: by the model's tokenizer", "ours", low=0
    )

    paper: ClassVar[str] = "arXiv 2403.18715"

    def branch(self) -> Branch:
        """The second branch."""
        return Branch(DisturbedPrompt(self.words, self.tokens))
