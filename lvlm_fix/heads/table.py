"""A table of head scores over many images: saved, loaded, compared, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.files import written_whole
from lvlm_fix.heads.measured import read, reading, write

__all__ = ["HeadTable", "compare"]

FORMAT = "lvlm-fix head table 1"


@dataclass(frozen=True, eq=False)  # tables are compared by `compare`
class HeadTable:
    """Mean and deviation of every head's score over `n` images, and where they come from."""

    metric: str
    mean: np.ndarray  # layers heads
    deviation: np.ndarray  # layers heads; sample deviation over images, 0 for one image
    n: int  # images
    model: str
    revision: str | None
    prompt: str
    versions: dict[str, str]

    def top(self, count: int) -> list[tuple[int, int]]:
        """The `count` heads with the highest mean, as (layer, head)."""
        order = np.argsort(-np.nan_to_num(self.mean, nan=-np.inf), axis=None, kind="stable")[:count]
        return [(int(i) // self.mean.shape[1], int(i) % self.mean.shape[1]) for i in order]

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        write(path, FORMAT, vars(self))

    @classmethod
    def load(cls, path: str | Path) -> HeadTable:
        """Read a saved table. Raises `DataError` if the file is missing, damaged or of another
        kind.
        """
        with reading(path, "a head table", "make one with `heads score`"):
            return cls(**read(path, FORMAT, ("mean", "deviation")))

    def __str__(self) -> str:
        return f"{self.metric} of {self.model}, n = {self.n}"

    def draw(self, path: str | Path) -> None:
        """Write a heat map, layers upwards and heads to the right, as PNG."""
        from matplotlib.figure import Figure

        layers, heads = self.mean.shape
        figure = Figure(
            figsize=(max(4, heads * 0.35 + 2), max(3, layers * 0.3 + 1.5)), layout="constrained"
        )
        axes = figure.subplots()
        image = axes.imshow(self.mean, origin="lower", aspect="auto", cmap="viridis")
        figure.colorbar(image, label=f"mean {self.metric}")
        axes.set(
            xlabel="head",
            ylabel="layer",
            title=f"{self.metric}, {Path(self.model).name}, n = {self.n} images",
        )
        with written_whole(path) as part:
            figure.savefig(part, format="png", dpi=120)


def compare(one: HeadTable, other: HeadTable, top: int = 10) -> dict[str, Any]:
    """How alike two tables order the heads: Spearman's rank correlation, and the share of the `top`
    heads in both.

    Heads that either table has not scored are left out; the correlation is None if a table has only
    one value.
    Raises `DataError` for tables of different shape and `SettingError` unless 1 <= top <= heads.
    """
    if one.mean.shape != other.mean.shape:
        raise DataError(
            f"cannot compare tables of different models: {one.mean.shape} and"
            f" {other.mean.shape} layers × heads"
        )
    if not 1 <= top <= one.mean.size:
        raise SettingError(f"top must be from 1 to the model's {one.mean.size} heads, got {top}")
    scored = np.isfinite(one.mean) & np.isfinite(other.mean)
    ranks = [_ranks(table.mean[scored]) for table in (one, other)]
    alike = scored.any() and all(np.ptp(rank) > 0 for rank in ranks)
    shared = set(one.top(top)) & set(other.top(top))
    return {
        "spearman": float(np.corrcoef(ranks)[0, 1]) if alike else None,
        "heads": int(scored.sum()),
        "top": top,
        "overlap": len(shared) / top,
        "shared": sorted(shared),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, back, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[back]
