"""How well a model's Yes against No tells questions apart, whatever its bias: the AUC of POPE.

A model that says yes too often answers wrongly, and may still rank right: accuracy moves with its
bias, the AUC does not.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lvlm_eval.pope import Question
from lvlm_eval.records import Record
from lvlm_eval.roc import Ranked
from lvlm_eval.stats import Array, corrected, difference, interval, none_if_nan, weights
from lvlm_fix.ask.wording import Wording, log_odds

__all__ = ["MOST", "aucs", "odds_in", "odds_of"]

MOST = 100.0
"""Nats, either way; where a method forbids an answer, its log-odds have no end (ours)."""


def odds_of(logits: Tensor, tokenizer: Any) -> list[float]:
    """Log-odds of Yes against No, natural, in the logits of each answer's first token (answer
    vocabulary); 0 where a method forbids both.
    """
    odds = log_odds(logits.float(), *Wording().answers(tokenizer))
    return odds.nan_to_num(0.0, MOST, -MOST).clamp(-MOST, MOST).tolist()


def odds_in(records: Sequence[Record]) -> list[float] | None:
    """Log-odds of a file of answers; None where not every record has them."""
    found = [record.get("log_odds") for record in records]
    known = [float(one) for one in found if isinstance(one, int | float)]
    return known if len(known) == len(found) else None


def aucs(
    questions: Mapping[int, Question],
    odds: Mapping[str, list[float]],
    base: str,
    seed: int = 0,
    apart: Container[str] = (),
) -> dict[str, Any]:
    """Per method its AUC with a 95 % interval; of every method but `base` and those `apart` the
    difference from `base`, paired over photos.

    `odds` are in the order of `questions`, and hold `base`. An AUC is None where all questions have
    one answer.
    """
    asked = list(questions.values())
    positive = np.array([float(one.label == "yes") for one in asked])
    _, photo = np.unique([one.image for one in asked], return_inverse=True)
    drawn = np.concatenate(list(weights(int(photo.max()) + 1, seed=seed)))[:, photo]
    found: dict[str, tuple[float, Array]] = {}
    for method, values in odds.items():
        ranked = Ranked(positive, -np.array(values))
        every = ranked.auroc(np.ones(len(asked)))
        found[method] = every, np.array([ranked.auroc(each) for each in drawn])
    whole, resampled = found[base]
    changes = {
        method: difference(value - whole, each - resampled)
        for method, (value, each) in found.items()
        if method != base and method not in apart
    }
    out: dict[str, Any] = {
        method: {"value": none_if_nan(value), "ci": [*map(none_if_nan, interval(each))]}
        for method, (value, each) in found.items()
    }
    for method, row in corrected(changes).items():
        out[method]["difference"] = row
    return out
