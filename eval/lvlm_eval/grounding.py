"""How well a word's signals tell invented object words from those in the picture, with CHAIR's
labels.

Invented is the positive class and a *low* signal speaks for it. Photos are resampled, not words:
the words of one caption depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from lvlm_eval.stats import Array, interval
from lvlm_fix.errors import DataError
from lvlm_fix.objects.extract import Dialect, mentions
from lvlm_fix.tools.grounding import Grounding, t_vhd

__all__ = ["Mentions", "auroc", "average_precision", "mentions_of", "score"]

DRAWS = 1000
"""Resamples of an interval; ours."""


@dataclass(frozen=True)
class Mentions:
    """The object words of one caption: the photo, which are invented, and every signal's value for
    each.
    """

    image_id: int
    invented: tuple[bool, ...]
    signals: Mapping[str, tuple[float, ...]]


def mentions_of(
    image_id: int,
    found: Grounding,
    truth: Set[str],
    ks: Sequence[int],
    dialect: Dialect = "published",
) -> Mentions:
    """Labels and signals of a measured caption's object words.

    `position` is a control that needs no model: words further back count as more invented.
    """
    named = mentions(found.text, dialect)
    spans = [
        slice(found.words[one.first].tokens[0], found.words[one.last].tokens[1]) for one in named
    ]
    signals = {
        f"t_vhd k={k}": tuple(float(t_vhd(found.vhd[span], k).mean()) for span in spans) for k in ks
    }
    signals["log_probability"] = tuple(float(found.log_probability[span].sum()) for span in spans)
    signals["image_gain"] = tuple(float(found.image_gain[span].sum()) for span in spans)
    signals["position"] = tuple(-float(one.first) for one in named)
    return Mentions(image_id, tuple(one.node not in truth for one in named), signals)


def auroc(positive: Array, values: Array, weights: Array) -> float:
    """Chance that a positive has a lower value than a negative, ties counting half; NaN without
    both kinds.
    """
    ups, downs = _by_value(positive, values, weights)
    below = np.cumsum(downs) - downs  # negatives with a lower value
    total = ups.sum() * downs.sum()
    return float(1 - (ups * (below + downs / 2)).sum() / total) if total else float("nan")


def average_precision(positive: Array, values: Array, weights: Array) -> float:
    """Mean precision at each positive, lowest values first; ties enter together. NaN without
    positives.
    """
    ups, downs = _by_value(positive, values, weights)
    taken, right = np.cumsum(ups + downs), np.cumsum(ups)
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    return float((precision * ups).sum() / ups.sum()) if ups.sum() else float("nan")


def _by_value(positive: Array, values: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of positives and of negatives at each different value, lowest first."""
    _, place = np.unique(values, return_inverse=True)
    up, down = (np.bincount(place, weights * kind) for kind in (positive, 1 - positive))
    return up.astype(np.float64), down.astype(np.float64)


def score(captions: Sequence[Mentions], seed: int = 0, draws: int = DRAWS) -> dict[str, object]:
    """AUROC and average precision per signal with 95 % intervals over photos, and the counts.

    Raises:
        DataError: no object word was invented, or none is in the picture.
    """
    invented = np.array([flag for one in captions for flag in one.invented], dtype=np.float64)
    if not len(invented) or invented.min() == invented.max():
        raise DataError(
            f"nothing to tell apart: {int(invented.sum())} of {len(invented)} object words in"
            f" {len(captions)} captions are invented"
        )
    photo = np.array([i for i, one in enumerate(captions) for _ in one.invented])
    rng = np.random.default_rng(seed)
    drawn = [
        np.bincount(rng.integers(0, len(captions), len(captions)), minlength=len(captions))[
            photo
        ].astype(np.float64)
        for _ in range(draws)
    ]
    once = np.ones_like(invented)
    signals: dict[str, object] = {}
    for name in captions[0].signals:
        values = np.array([value for one in captions for value in one.signals[name]])
        figures = {}
        for label, figure in (("auroc", auroc), ("average_precision", average_precision)):
            figures[label] = figure(invented, values, once)
            figures[f"{label}_ci"] = list(
                interval([figure(invented, values, weights) for weights in drawn])
            )
        signals[name] = figures
    return {
        "photos": len(captions),
        "object_words": len(invented),
        "invented": int(invented.sum()),
        "signals": signals,
    }
