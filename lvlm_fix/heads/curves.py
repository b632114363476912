"""How much attention heads give the text written so far, at right and at invented words."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from lvlm_fix.errors import DataError

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
        record = {"format": FORMAT} | {
            key: np.round(value, 8).tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }
        partial = Path(f"{path}.partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Curves:
        """Read saved curves. Raises `DataError` where the file is missing, damaged or another."""
        try:
            record = json.loads(Path(path).read_text())
            if record.pop("format") != FORMAT:
                raise ValueError("another format")
            real, invented = (np.asarray(record.pop(key), float) for key in ("real", "invented"))
            if real.ndim != 2 or real.shape != invented.shape:
                raise ValueError(
                    f"real {real.shape} and invented {invented.shape} are not layers × heads"
                )
            if not ((real > 0).all() and (invented > 0).all()):
                raise ValueError("attention that is not above 0")
            return cls(real=real, invented=invented, **record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"cannot read {str(path)!r} as curves: {error}; make them with `heads curves`"
            ) from error

    def __str__(self) -> str:
        return f"curves of {self.model}, {self.n_real} and {self.n_invented} words"


def shipped_curves(name: str) -> Curves | None:
    """The curves that come with an embedded model; None: it has none."""
    found = files("lvlm_fix.heads") / f"curves_{name}.json"
    return Curves.load(Path(str(found))) if found.is_file() else None
