"""How well a word's signals tell invented object words from those in the picture, with CHAIR's
labels, and what each adds to the place of the word in the text.

Invented is the positive class and a *low* signal speaks for it. Photos are resampled, not words:
the words of one caption depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from lvlm_eval.names import UNKNOWN
from lvlm_eval.roc import Places, Ranked, out_of_fold
from lvlm_eval.stats import Array, interval
from lvlm_fix.errors import DataError
from lvlm_fix.grounding.formulas import t_vhd
from lvlm_fix.grounding.found import SIGNALS, Grounding, pooled
from lvlm_fix.objects.extract import Dialect, mentions

__all__ = ["BIN", "COMBINED", "Mentions", "mentions_of", "score"]

DRAWS = 1000
"""Resamples of an interval; ours."""
BIN = 4
"""Words of a bin of place; ours."""
COMBINED = (
    ("ask", "place"),
    ("ask", "log_probability"),
    ("ask", "image_gain"),
    ("ask", "log_probability", "place"),
    ("ic", "log_probability", "place"),
)
"""All combinations that are tried; ours, written down before they were measured."""


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

    `place` is a control that needs no model: words further back count as more invented.
    """
    named = [m for m in mentions(found.text, dialect) if f"{UNKNOWN}{m.node}" not in truth]
    spans = [
        slice(found.words[one.first].tokens[0], found.words[one.last].tokens[1]) for one in named
    ]
    signals = {"place": tuple(-float(one.first) for one in named)}
    if found.ask is not None:
        signals["ask"] = tuple(found.ask[one.first] for one in named)
    for k in ks:
        signals[f"t_vhd k={k}"] = tuple(float(t_vhd(found.vhd[span], k).mean()) for span in spans)
    for name in SIGNALS:
        if name in found.signals and name != "t_vhd":
            values = found.by_token(name)
            signals[name] = tuple(pooled(name, values[span]) for span in spans)
    return Mentions(image_id, tuple(one.node not in truth for one in named), signals)


def score(
    captions: Sequence[Mentions], seed: int = 0, draws: int = DRAWS, width: int = BIN
) -> dict[str, object]:
    """Figures of every signal with 95 % intervals over photos, and the counts.

    Per signal: AUROC, average precision, AUROC within bins of `width` words of place, and the gain:
    AUROC of a fit to place and signal, on photos that it was not fitted to, less that of place.
    Combinations of `COMBINED` whose signals were measured have the same figures.

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
    columns = {
        name: np.array([value for one in captions for value in one.signals[name]])
        for name in captions[0].signals
    }
    place = columns["place"]
    judge = _Judge(invented, place, (-place // width).astype(np.int64), drawn)
    signals: dict[str, object] = {}
    for name, values in columns.items():
        pair = place
        if name != "place":
            pair = out_of_fold(np.stack((place, values), 1), invented, photo, seed)
        signals[name] = judge.figures(values, pair)
    combined: dict[str, object] = {}
    for names in COMBINED:
        if set(names) <= columns.keys():
            fit = out_of_fold(np.stack([columns[n] for n in names], 1), invented, photo, seed)
            combined["+".join(names)] = judge.figures(fit, fit)
    return {
        "photos": len(captions),
        "object_words": len(invented),
        "invented": int(invented.sum()),
        "bin_words": width,
        "signals": signals,
        "combined": combined,
    }


@dataclass(frozen=True)
class _Judge:
    """Figures of one score, on the words as they are and on every resample."""

    invented: Array
    place: Array
    bins: Places
    drawn: Sequence[Array]

    def figures(self, values: Array, pair: Array) -> dict[str, object]:
        """Figures with intervals; `pair` is the fit to the score and place."""
        whole, within = Ranked(self.invented, values), Ranked(self.invented, values, self.bins)
        both, alone = Ranked(self.invented, pair), Ranked(self.invented, self.place)
        found: dict[str, object] = {}

        def gain(weights: Array) -> float:
            return both.auroc(weights) - alone.auroc(weights)

        for name, figure in (
            ("auroc", whole.auroc),
            ("average_precision", whole.average_precision),
            ("within_bins", within.auroc),
            ("gain", gain),
        ):
            found[name] = figure(np.ones_like(self.invented))
            found[f"{name}_ci"] = list(interval([figure(weights) for weights in self.drawn]))
        return found
