"""Whether an exported checkpoint says what the wrapped model says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.attach import fix
from lvlm_fix.errors import DataError
from lvlm_fix.families import family_of
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.methods import VHR
from lvlm_fix.models import DESCRIBE, answer, load, open_image, prepare, sample_photos
from lvlm_fix.tools.checkpoint import RECORD, digests_of

__all__ = ["Equality", "check"]

TOLERANCE = 1e-5
TOKENS = 64


@dataclass(frozen=True)
class Equality:
    """An exported checkpoint against the wrapped model, in float32, on the sample photos."""

    photos: int
    logits_difference: float  # largest, over all positions of the prompts
    texts_equal: int  # of the photos
    digest_equal: bool  # the weights are those that were written

    @property
    def holds(self) -> bool:
        """Whether the checkpoint is what its card says."""
        return (
            self.digest_equal
            and self.logits_difference <= TOLERANCE
            and self.texts_equal == self.photos
        )

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"holds": self.holds}


def check(out: Path, model: str, revision: str | None = None) -> Equality:
    """Compare the exported checkpoint `out` with `model` wrapped by VHR on the same heads.

    Raises `DataError` where `out` is no export of this package.
    """
    try:
        record = json.loads((out / RECORD).read_text())
        if "strength" not in record:
            raise ValueError(f"{record.get('method')} made it, but --check compares only gains")
        strength, heads, digests = (
            float(record["strength"]),
            dict(record["heads"]),
            dict(record["sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(out)!r} holds no export of a gain: {error}; make one with `lvlm-fix export`"
        ) from error
    wrapped, processor = load(model, revision=revision, dtype=torch.float32)
    family = family_of(wrapped)
    chosen = np.zeros((len(family.layers), family.decoder.config.num_attention_heads))
    for layer, numbers in heads.items():
        chosen[int(layer), numbers] = 1.0
    table = HeadTable("recorded", chosen, np.zeros_like(chosen), 0, model, None, "", {})
    layers = tuple(int(layer) for layer in heads)
    method = VHR(strength=strength, table=table, top=int(chosen.sum()), layers=layers)
    with fix(wrapped, method):
        wanted, texts = _seen(wrapped, processor)
    plain, processor = load(str(out), dtype=torch.float32)
    found, others = _seen(plain, processor)
    difference = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
    same = sum(a == b for a, b in zip(texts, others, strict=True))
    return Equality(len(texts), difference, same, digests_of(out) == digests)


@torch.no_grad()
def _seen(model: PreTrainedModel, processor: Any) -> tuple[list[Tensor], list[str]]:
    """Logits at every prompt position, and greedy texts, of the sample photos."""
    photos = [open_image(path) for path in sample_photos()]
    logits = [
        model(**prepare(model, processor, [photo], [DESCRIBE])).logits.cpu() for photo in photos
    ]
    return logits, [
        answer(model, processor, [photo], [DESCRIBE], max_new_tokens=TOKENS)[0] for photo in photos
    ]
