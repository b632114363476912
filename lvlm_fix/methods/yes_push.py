"""Yes push: the control for every method that is judged by yes/no questions.

Paper    "The Mirage of Performance Gains", arXiv 2504.10020 (its `olm`).
Code     Both thresholds are those of the authors' code, which acts at every step.
Edits    next_token_logits.
Needs    AnswerTokens: the tokens with which Yes and No begin.
Departs  A word counts in all its spellings, upper and lower case, with and without a blank (the
         code knows two ids of one model). If nothing is pushed, the logits stay as they are, so
         sampling stays sampling (the code takes the likeliest token).
Cost     none
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.method import AtToken, Method, Watch, setting
from lvlm_fix.watches import AnswerTokens

__all__ = ["YesPush"]


@dataclass(frozen=True)
class YesPush(Method):
    """If Yes and No are both likely, only Yes is possible: `p_yes + p_no > least` and
    `|p_yes − p_no| < margin`.
    """

    margin: float = setting(
        0.5, "difference of both probabilities below which Yes is said; 0: never", "authors' code",
        low=0,
    )  # fmt: skip
    least: float = setting(
        0.2, "probability that both answers exceed together, 0 to 1", "authors' code", low=0, high=1
    )
    when: str = setting(
        "every", "which tokens are pushed", "authors' code: every", options=("every", "first")
    )

    yes: tuple[int, ...] | None = setting(
        None, "tokens with which Yes begins; none: those of the tokenizer", "ours", low=0
    )
    no: tuple[int, ...] | None = setting(None, "the same of No", "ours", low=0)

    control: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2504.10020"

    @classmethod
    def method_name(cls) -> str:
        return "yes-push"

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.answers,)

    @property
    def answers(self) -> AnswerTokens:
        """The watch of the two answers' tokens."""
        return AnswerTokens(self.yes or (), self.no or ())

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        if self.margin == 0 or (self.when == "first" and at.step):
            return logits
        yes, no = at[self.answers]
        probable = logits.float().softmax(-1)
        p_yes, p_no = (probable.index_select(-1, ids).sum(-1) for ids in (yes, no))
        pushed = (p_yes + p_no > self.least) & ((p_yes - p_no).abs() < self.margin)
        only = logits.new_full(logits.shape, -math.inf)
        only = only.index_copy(-1, yes, logits.index_select(-1, yes))
        return only.where(pushed[:, None], logits)
