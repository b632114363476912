"""Intervals and paired tests by the bootstrap over photos, and Holm's correction.

Figures are ratios of sums, so a resample needs only the sums of its columns: weights (draws x
photos) @ columns.
Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993); Holm (1979).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lvlm_fix.errors import DataError

__all__ = [
    "DRAWS",
    "Array",
    "Difference",
    "Figures",
    "bootstrap",
    "corrected",
    "difference",
    "draws_of",
    "holm",
    "interval",
    "none_if_nan",
    "paired",
    "ratio",
    "weights",
]

Array = npt.NDArray[np.float64]
Figures = Callable[[Array], dict[str, Array]]
"""Sums of the columns (last axis) -> named figures."""

DRAWS = 2000
"""Resamples of an interval; ours."""

_CHUNK = 200  # resamples at a time: bounds the memory at 200 x photos


class Difference(NamedTuple):
    """A method against the unmodified model on the same photos."""

    difference: float
    low: float
    high: float
    p: float


def ratio(numerator: Array, denominator: Array) -> Array:
    """Element by element; NaN where there is nothing to divide by, never 0."""
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0
    )


def bootstrap(
    columns: Array, figures: Figures, draws: int = DRAWS, seed: int = 0
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Figures of the rows (one per photo), and their 95 % percentile intervals.

    Raises:
        DataError: no rows.
    """
    values = {name: float(value) for name, value in figures(_total(columns)).items()}
    drawn = _resampled(columns, figures, draws, seed)
    return values, {name: interval(drawn[name]) for name in values}


def paired(
    method: Array, base: Array, figures: Figures, draws: int = DRAWS, seed: int = 0
) -> dict[str, Difference]:
    """Each figure of `method` minus that of `base`, with a 95 % interval and a two-sided p.

    Row i of both belongs to the same photo, and both are resampled alike. p is twice the smaller
    share of resampled differences on either side of 0, ties on both, counted with one added so that
    it is never 0.

    Raises:
        DataError: no rows, or not as many in both.
    """
    if method.shape != base.shape:
        raise DataError(
            f"a paired comparison needs the same photos: {len(method)} against {len(base)}"
        )
    observed = {
        name: figures(_total(method))[name] - value for name, value in figures(_total(base)).items()
    }
    ours, theirs = (_resampled(columns, figures, draws, seed) for columns in (method, base))
    out: dict[str, Difference] = {}
    for name, value in observed.items():
        out[name] = difference(float(value), ours[name] - theirs[name])
    return out


def difference(value: float, drawn: Array) -> Difference:
    """A difference with the interval and the p of its resamples, as `paired` has them."""
    drawn = drawn[~np.isnan(drawn)]
    tail = min(int(np.sum(drawn <= 0)), int(np.sum(drawn >= 0)))
    low, high = interval(drawn)
    return Difference(value, low, high, min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number: the k-th smallest of m times m - k + 1, made
    monotone.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}


def corrected(changes: Mapping[str, Difference]) -> dict[str, dict[str, Any]]:
    """Differences as JSON has them, with Holm's p over all of them."""
    holms = holm({name: change.p for name, change in changes.items()})
    return {
        name: {
            "difference": none_if_nan(change.difference),
            "ci": [none_if_nan(change.low), none_if_nan(change.high)],
            "p": change.p,
            "p_holm": holms[name],
        }
        for name, change in changes.items()
    }


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN; a figure that is undefined is null."""
    return None if np.isnan(value) else value


def _total(columns: Array) -> Array:
    if not len(columns):
        raise DataError("nothing to score: no samples; an empty run has no figures")
    return columns.sum(axis=0)


def _resampled(columns: Array, figures: Figures, draws: int, seed: int) -> dict[str, Array]:
    return figures(np.concatenate([each @ columns for each in weights(len(columns), draws, seed)]))


def draws_of(columns: Array, draws: int = DRAWS, seed: int = 0) -> Array:
    """Sums of several methods' columns in each resample of the photos, all resampled alike:
    (methods, photos, columns) -> (draws, methods, columns).
    """
    found = [
        np.einsum("dp,mpc->dmc", each, columns) for each in weights(columns.shape[1], draws, seed)
    ]
    return np.concatenate(found)


def weights(rows: int, draws: int = DRAWS, seed: int = 0) -> Iterator[Array]:
    """How often each photo is drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK):
        picked = rng.integers(0, rows, size=(min(_CHUNK, draws - start), rows))
        offsets = np.arange(len(picked))[:, None] * rows
        counts = np.bincount((picked + offsets).ravel(), minlength=len(picked) * rows)
        yield counts.reshape(len(picked), rows).astype(np.float64)


def interval(drawn: Sequence[float] | Array) -> tuple[float, float]:
    values = np.asarray(drawn, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
