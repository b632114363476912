"""CHAIR of captions against the objects that are in the pictures: a judgement per caption, then the
figures.

Source: Rohrbach et al., "Object Hallucination in Image Captioning" (2018). CHAIR_I counts mentions;
recall, precision and F1 count unique nodes, as in the authors' later scorer.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from string import punctuation

import numpy as np

from lvlm_eval.names import UNKNOWN, known
from lvlm_eval.stats import Array, bootstrap, none_if_nan, ratio
from lvlm_fix.errors import DataError
from lvlm_fix.objects.extract import Dialect, Mention, mentions

__all__ = ["Judgement", "columns", "cut", "figures", "judge", "labelled", "score"]


@dataclass(frozen=True)
class Judgement:
    """What one caption names, and which of it is not in the picture."""

    image_id: int
    caption: str
    mentions: tuple[Mention, ...]
    truth: frozenset[str]
    unjudged: int = 0  # mentions of what nobody looked for in the picture: they count nowhere

    @property
    def invented(self) -> tuple[Mention, ...]:
        """The mentions whose node is not in the picture."""
        return tuple(mention for mention in self.mentions if mention.node not in self.truth)


def judge(
    captions: Mapping[int, str], truth: Mapping[int, Set[str]], dialect: Dialect = "published"
) -> list[Judgement]:
    """A judgement per caption, in the order of the captions.

    Raises:
        DataError: no captions, or a caption of a photo whose objects are unknown.
    """
    if not captions:
        raise DataError("nothing to score: no captions")
    unknown = [image_id for image_id in captions if image_id not in truth]
    if unknown:
        raise DataError(
            f"the objects of {len(unknown)} of {len(captions)} photos are unknown (first:"
            f" {unknown[0]}); give the truth file for these photos"
        )
    return [_judged(key, text, truth[key], dialect) for key, text in captions.items()]


def _judged(image_id: int, caption: str, truth: Set[str], dialect: Dialect) -> Judgement:
    named = mentions(caption, dialect)
    judged = tuple(one for one in named if f"{UNKNOWN}{one.node}" not in truth)
    return Judgement(image_id, caption, judged, known(truth), len(named) - len(judged))


def labelled(judgement: Judgement) -> dict[str, object]:
    """A caption with its grounded and its invented object words, as they stand in it, ready for
    JSON.
    """
    written = judgement.caption.split()
    named = [
        (" ".join(written[m.first : m.last + 1]).strip(punctuation), m) for m in judgement.mentions
    ]
    return {
        "image": judgement.image_id,
        "text": judgement.caption,
        "grounded": [text for text, mention in named if mention.node in judgement.truth],
        "invented": [text for text, mention in named if mention.node not in judgement.truth],
    }


def score(judgements: list[Judgement], seed: int = 0) -> dict[str, object]:
    """The figures (shares as fractions, length in words) with n and 95 % intervals; None where
    undefined.
    """
    values, intervals = bootstrap(columns(judgements), figures, seed=seed)
    plain: dict[str, object] = {name: none_if_nan(value) for name, value in values.items()}
    ci = {name: [none_if_nan(end) for end in ends] for name, ends in intervals.items()}
    return {"n": len(judgements), **plain, "ci": ci}


def columns(judgements: list[Judgement]) -> Array:
    """One row per caption: the counts that `figures` sums."""
    return np.array([_row(judgement) for judgement in judgements], dtype=np.float64).reshape(-1, 9)


def figures(sums: Array) -> dict[str, Array]:
    """The figures from sums of `columns` over captions; the last axis holds the columns."""
    n, wrong, invented, named, hit, unique, present, words, fresh = np.moveaxis(sums, -1, 0)
    recall, precision = ratio(hit, present), ratio(hit, unique)
    return {
        "chair_s": ratio(wrong, n),
        "chair_i": ratio(invented, named),
        "recall": recall,
        "precision": precision,
        "f1": ratio(2 * recall * precision, recall + precision),
        "length": ratio(words, n),
        "distinct_3": ratio(fresh, n),
    }


def cut(caption: str, words: int) -> str:
    """The first `words` words of a caption."""
    return " ".join(caption.split()[:words])


def _row(judgement: Judgement) -> tuple[float, ...]:
    named = {mention.node for mention in judgement.mentions}
    invented = len(judgement.invented)
    words = judgement.caption.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    fresh = len(set(trigrams)) / len(trigrams) if trigrams else 1.0
    hit = len(named & judgement.truth)
    return (
        1,
        invented > 0,
        invented,
        len(judgement.mentions),
        hit,
        len(named),
        len(judgement.truth),
        len(words),
        fresh,
    )
