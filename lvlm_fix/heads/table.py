"""A table of head scores over many images: made, saved, loaded, drawn."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.apply import fix
from lvlm_fix.errors import DataError, InputError, UnknownNameError
from lvlm_fix.heads.metrics import METRICS
from lvlm_fix.models import DESCRIBE, prepare, revision_of

__all__ = ["HeadTable", "score_heads"]

FORMAT = "lvlm-fix head table 1"


@dataclass(frozen=True)
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
        record = {"format": FORMAT} | {
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()
        }
        partial = Path(f"{path}.partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> HeadTable:
        """Read a saved table. Raises `DataError` where the file is missing, damaged or something else."""
        try:
            record = json.loads(Path(path).read_text())
            if record.pop("format") != FORMAT:
                raise ValueError("another format")
            mean, deviation = (np.asarray(record.pop(key), float) for key in ("mean", "deviation"))
            if mean.ndim != 2 or mean.shape != deviation.shape:
                raise ValueError(f"mean {mean.shape} and deviation {deviation.shape} are not layers × heads")
            return cls(mean=mean, deviation=deviation, **record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"cannot read {str(path)!r} as a head table: {error}; make one with `heads score`"
            ) from error

    def draw(self, path: str | Path) -> None:
        """Write a heat map, layers upwards and heads to the right, as PNG."""
        from matplotlib.figure import Figure

        layers, heads = self.mean.shape
        figure = Figure(figsize=(max(4, heads * 0.35 + 2), max(3, layers * 0.3 + 1.5)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(self.mean, origin="lower", aspect="auto", cmap="viridis")
        figure.colorbar(image, label=f"mean {self.metric}")
        axes.set(xlabel="head", ylabel="layer", title=f"{self.metric}, {Path(self.model).name}, n = {self.n} images")
        figure.savefig(path, format="png", dpi=120)


@torch.no_grad()
def score_heads(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Iterable[Image.Image],
    *,
    metric: str = "vhd",
    prompt: str = DESCRIBE,
    name: str = "",
) -> HeadTable:
    """Score every head on every image, one prompt each, at the position that predicts the first token.

    Raises `UnknownNameError` for a metric that is not there and `InputError` for no images.
    """
    if metric not in METRICS:
        raise UnknownNameError(f"there is no head score {metric!r}; there are: {', '.join(METRICS)}")
    rows = []
    with fix(model, METRICS[metric]()) as handle:
        for image in images:
            model(**prepare(model, processor, [image], [prompt]), use_cache=False)
            rows.append(handle.scores()[0].float().cpu().numpy())
    if not rows:
        raise InputError("no images to score heads on")
    scores = np.stack(rows).astype(float)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    deviation = scores.std(0, ddof=1) if len(rows) > 1 else np.zeros_like(scores[0])
    model_name = name or model.config._name_or_path or type(model).__name__
    return HeadTable(metric, scores.mean(0), deviation, len(rows), model_name, revision_of(model), prompt, versions)
