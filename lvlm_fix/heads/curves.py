"""How much attention heads give the text written so far, at right and at invented words."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from lvlm_fix.heads.measured import read, reading, write

__all__ = ["Curves", "shipped_curves"]

FORMAT = "lvlm-fix curves 1"


@dataclass(frozen=True, eq=False)
class Curves:
    """Mean attention on one token of the written text, by layer and head, fraction 0–1; and where
    it comes from.
    """

    real: np.ndarray  # layers heads; at words of what is in the photo
    invented: np.ndarray  # layers heads; at words of what is not
    n_real: int  # words
    n_invented: int
    photos: int
    model: str
    revision: str | None
    prompt: str
    versions: dict[str, str]

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        rounded = {key: np.round(getattr(self, key), 8) for key in ("real", "invented")}
        write(path, FORMAT, vars(self) | rounded)

    @classmethod
    def load(cls, path: str | Path) -> Curves:
        """Read saved curves. Raises `DataError` if the file is missing, damaged or another kind."""
        with reading(path, "curves", "make them with `heads curves`"):
            record = read(path, FORMAT, ("real", "invented"))
            if not ((record["real"] > 0).all() and (record["invented"] > 0).all()):
                raise ValueError("attention that is not above 0")
            return cls(**record)

    def __str__(self) -> str:
        return f"curves of {self.model}, {self.n_real} and {self.n_invented} words"


def shipped_curves(name: str) -> Curves | None:
    """The curves that come with an embedded model; None if it has none."""
    found = files("lvlm_fix.heads") / f"curves_{name}.json"
    return Curves.load(Path(str(found))) if found.is_file() else None
