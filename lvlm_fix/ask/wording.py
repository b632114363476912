"""The question about an object, and the tokens that count as Yes and as No."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.core.settings import check_settings, setting
from lvlm_fix.errors import ModelError, SettingError

__all__ = ["Wording", "log_odds"]


@dataclass(frozen=True)
class Wording:
    """The question and the words of its two answers.

    Raises `SettingError` if the question has no place for the object.
    """

    question: str = setting(
        "Is there {a} {object} in the image?",
        "{object} is the word asked about, {a} its article",
        "POPE, arXiv 2305.10355, section 4",
    )
    yes: str = setting("Yes", "the answer where the object is there", "POPE")
    no: str = setting("No", "the answer where it is not", "POPE")

    def __post_init__(self) -> None:
        check_settings(self)
        if "{object}" not in self.question:
            raise SettingError(f"question must contain {{object}}, got {self.question!r}")

    def about(self, name: str) -> str:
        """The question about one object."""
        article = "an" if name[:1].lower() in "aeiou" else "a"
        return self.question.replace("{object}", name).replace("{a}", article)

    def answers(self, tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first tokens of both answers, as a text may begin with them.

        Raises `ModelError` if the two answers begin with the same token.
        """
        yes, no = (
            {
                tokenizer(form, add_special_tokens=False)["input_ids"][0]
                for plain in (word, word.lower())
                for form in (plain, f" {plain}")
            }
            for word in (self.yes, self.no)
        )
        both = yes & no  # a blank of its own in front of either word
        if not (yes - both and no - both):
            raise ModelError(
                f"the answers {self.yes!r} and {self.no!r} begin with the same token: choose others"
            )
        return tuple(sorted(yes - both)), tuple(sorted(no - both))


def log_odds(
    logits: Float[Tensor, "answer vocabulary"], yes: Sequence[int], no: Sequence[int]
) -> Float[Tensor, " answer"]:
    """Log-odds of Yes against No, natural, at the first token of each answer; `yes` and `no` are
    `Wording.answers`.
    """
    return logits[:, [*yes]].logsumexp(-1) - logits[:, [*no]].logsumexp(-1)
