"""From log-odds of Yes to the chance that an object is there: measured, never assumed.

Models lean to Yes or to No, each in its own way. A calibration is made from photos with known
objects: the model describes them, is asked about what it named, and a logistic curve is fitted to
what was there (Platt, 1999). Its error is measured on photos that the curve was not fitted to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from lvlm_fix.errors import DataError
from lvlm_fix.files import write_whole

__all__ = ["BINS", "Asked", "Calibration", "calibrate", "shipped"]

BINS = 10
DRAWS = 1000
Array = npt.NDArray[np.float64]
Asked = tuple[int, float, bool]
"""A photo, the log-odds of one object that the text names, and whether it is there."""


@dataclass(frozen=True)
class Calibration:
    """A curve, its error, and how it was made. Shares are fractions 0–1."""

    model: str
    question: str
    photos: int
    answers: int
    there: float  # share of the objects asked about that are in the photo
    slope: float
    offset: float
    error: float  # expected calibration error, ten bins of equal size, by two folds over photos
    error_ci: tuple[float, float]  # 95 %, over photos
    reliability: tuple[tuple[int, float, float], ...]  # by bin: answers, mean chance, share there

    def chance(self, odds: float) -> float:
        """The chance (0–1) that an object with this answer is there."""
        return float(expit(self.slope * odds + self.offset))

    def threshold(self, chance: float = 0.5) -> float:
        """The lowest log-odds at which an object is there with at least this chance."""
        return (math.log(chance / (1 - chance)) - self.offset) / self.slope

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote. Raises `DataError`."""
        try:
            return cls._of(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path} is not a calibration from `lvlm-fix ask calibrate`: {error}"
            ) from None

    @classmethod
    def _of(cls, found: dict[str, Any]) -> Calibration:
        bins = tuple((int(n), float(p), float(s)) for n, p, s in found.pop("reliability"))
        low, high = found.pop("error_ci")
        return cls(**found, reliability=bins, error_ci=(float(low), float(high)))


def shipped(name: str) -> Calibration | None:
    """The calibration that comes with an embedded model; None if this model has none."""
    found = files("lvlm_fix.ask") / f"calibrated_{name}.json"
    return Calibration.load(Path(str(found))) if found.is_file() else None


def calibrate(asked: Sequence[Asked], model: str, question: str, seed: int = 0) -> Calibration:
    """Fit the curve and measure its error. Raises `DataError` if there is too little to fit."""
    photos = sorted({photo for photo, _, _ in asked})
    there = sum(flag for _, _, flag in asked)
    if len(photos) < 20 or not 0 < there < len(asked):
        raise DataError(
            f"a calibration needs 20 photos, with objects there and objects not there; got "
            f"{len(photos)} photos with {there} of {len(asked)} objects there"
        )
    odds = np.array([value for _, value, _ in asked])
    truth = np.array([flag for _, _, flag in asked], dtype=np.float64)
    number = {photo: i for i, photo in enumerate(photos)}
    where = np.array([number[photo] for photo, _, _ in asked])
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(photos))[where] % 2
    chance = np.empty_like(odds)
    for part in (0, 1):
        slope, offset = _fit(odds[fold != part], truth[fold != part])
        chance[fold == part] = expit(slope * odds[fold == part] + offset)
    bins = _bins(chance, truth, np.ones_like(truth))
    drawn = [
        _error(_bins(chance, truth, np.bincount(some, minlength=len(photos))[where].astype(float)))
        for some in (rng.integers(0, len(photos), len(photos)) for _ in range(DRAWS))
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    slope, offset = _fit(odds, truth)
    return Calibration(
        model, question, len(photos), len(asked), round(there / len(asked), 4),
        round(slope, 4), round(offset, 4), round(_error(bins), 4),
        (round(float(low), 4), round(float(high), 4)),
        tuple((int(n), round(p, 4), round(s, 4)) for n, p, s in bins),
    )  # fmt: skip


def _fit(odds: Array, truth: Array) -> tuple[float, float]:
    """Slope and offset of the logistic curve, by likelihood. A slight pull to slope 1 keeps them
    finite if the answers separate perfectly.
    """

    def loss(point: Array) -> float:
        logits = point[0] * odds + point[1]
        return float((np.logaddexp(0, logits) - truth * logits).sum() + 0.01 * (point[0] - 1) ** 2)

    slope, offset = minimize(loss, np.array([1.0, 0.0])).x
    return float(slope), float(offset)


def _bins(chance: Array, truth: Array, weights: Array) -> list[tuple[float, float, float]]:
    """Answers, mean chance and share there, in bins that hold equally many answers."""
    found = []
    for part in np.array_split(np.argsort(chance, kind="stable"), BINS):
        if (total := weights[part].sum()) > 0:
            mean, share = (float(v[part] @ weights[part] / total) for v in (chance, truth))
            found.append((float(total), mean, share))
    return found


def _error(bins: list[tuple[float, float, float]]) -> float:
    total = sum(n for n, _, _ in bins)
    return sum(n * abs(mean - share) for n, mean, share in bins) / total
