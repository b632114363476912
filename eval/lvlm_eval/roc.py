"""How well one number tells two kinds apart: AUROC over all pairs or within bins, average
precision, and a logistic fit of several numbers that is always judged on other photos.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from lvlm_eval.stats import Array

__all__ = ["Ranked", "auroc", "average_precision", "out_of_fold"]

Places = npt.NDArray[np.int64]
FOLDS = 5  # ours


class Ranked:
    """Values in order, so that many weightings of the same rows are cheap.

    A positive counts as told where its value is the *lower* one; ties count half. With `bins` only
    pairs of one bin are counted.
    """

    def __init__(self, positive: Array, values: Array, bins: Places | None = None) -> None:
        self.positive = positive
        bins = np.zeros(len(values), np.int64) if bins is None else bins
        groups, self._place = np.unique(np.stack((bins, values)), axis=1, return_inverse=True)
        self._place = self._place.reshape(-1)
        _, starts = np.unique(groups[0], return_index=True)
        self._start = np.repeat(starts, np.diff((*starts, groups.shape[1])))  # of a group's bin

    def by_value(self, weights: Array) -> tuple[Array, Array]:
        """Weight of positives and of negatives at each different value, lowest first."""
        ups, downs = (
            np.bincount(self._place, weights * chosen, len(self._start)).astype(np.float64)
            for chosen in (self.positive, 1 - self.positive)
        )
        return ups, downs

    def auroc(self, weights: Array) -> float:
        """Chance that a positive has a lower value than a negative; NaN without pairs."""
        ups, downs = self.by_value(weights)
        before = np.concatenate(([0.0], np.cumsum(downs)))
        below = before[:-1] - before[self._start]  # negatives of the bin with a lower value
        ends = np.searchsorted(self._start, self._start, side="right")
        pairs = float((ups * (before[ends] - before[self._start])).sum())
        return 1 - float((ups * (below + downs / 2)).sum()) / pairs if pairs else float("nan")

    def average_precision(self, weights: Array) -> float:
        """Mean precision at each positive, lowest values first; ties enter together. NaN without
        positives.
        """
        ups, downs = self.by_value(weights)
        taken, right = np.cumsum(ups + downs), np.cumsum(ups)
        precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
        return float((precision * ups).sum() / ups.sum()) if ups.sum() else float("nan")


def auroc(positive: Array, values: Array, weights: Array, bins: Places | None = None) -> float:
    """`Ranked.auroc` of one weighting."""
    return Ranked(positive, values, bins).auroc(weights)


def average_precision(positive: Array, values: Array, weights: Array) -> float:
    """`Ranked.average_precision` of one weighting."""
    return Ranked(positive, values).average_precision(weights)


def out_of_fold(columns: Array, positive: Array, photo: Places, seed: int = 0) -> Array:
    """Log-odds of *not* being positive by a logistic regression on columns (rows columns), each row
    by a fit to the other four fifths of the photos.
    """
    folds = np.random.default_rng(seed).permutation(int(photo.max()) + 1)[photo] % FOLDS
    found = np.empty(len(positive))
    for fold in range(FOLDS):
        here, others = folds == fold, folds != fold
        mean, deviation = columns[others].mean(0), columns[others].std(0)
        scaled = (columns - mean) / np.where(deviation > 0, deviation, 1)
        point = _fit(scaled[others], 1 - positive[others])
        found[here] = scaled[here] @ point[1:] + point[0]
    return found


def _fit(columns: Array, truth: Array) -> Array:
    """Offset and slopes by likelihood, with a slight pull of the slopes to 0 (ours)."""
    padded = np.column_stack((np.ones(len(truth)), columns))

    def loss(point: Array) -> tuple[float, Array]:
        logits = padded @ point
        pull = 0.01 * np.concatenate(([0.0], point[1:]))
        value = (np.logaddexp(0, logits) - truth * logits).sum() + point @ pull / 2
        return float(value), padded.T @ (expit(logits) - truth) + pull

    return minimize(loss, np.zeros(padded.shape[1]), jac=True, method="L-BFGS-B").x
