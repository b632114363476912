"""PTI: turn the prompt's cached keys and values, once, before the first word.

Paper    CVPR 2026, arXiv 2604.25642.
Code     The edit, its places and both λ are those of the authors' code for LLaVA-1.5. Keys are
         turned as they are cached, rotation included.
Edits    prompt_cache: keys and values of the image's tokens, and of the prompt's last token but
         one (the cache that the authors edit lacks the last). The prompt's last row and all rows
         after it see them.
Needs    A safetensors file with one tensor for each layer that acts: `layer.N`, of image and text ×
         keys and values × heads of the keys × width of a head.
Departs  Whoever makes the file chooses how to measure the vectors (ours; the authors: pictures of
         objects alone against backgrounds alone, prompts with the objects' names against captions).
         A vector of zeros turns nothing. Further turns keep the first prompt's edit (ours). The
         turn of rotated keys depends on their positions: give a padded text called by hand its own
         positions.
Cost     none per token; one more copy of the prompt's keys and values during its pass.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.method import AtLayer, Method, setting
from lvlm_fix.vectors.turning import turned

__all__ = ["PTI", "read_shifts"]

Shifts = dict[int, Float[Tensor, "2 2 heads dim"]]


def read_shifts(path: str | Path) -> Shifts:
    """The tensors of a file by layer. Raises `DataError` naming the file and the key."""
    try:
        found = load_file(path)
        rows = {int(key.removeprefix("layer.")): row.float() for key, row in found.items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"cannot read {str(path)!r} as the vectors of pti: {error}") from error
    for layer, row in rows.items():
        if row.ndim != 4 or row.shape[:2] != (2, 2) or not row.isfinite().all():
            raise DataError(
                f"{str(path)!r}: layer.{layer} must be 2 × 2 × heads × width of finite numbers, "
                f"got {' × '.join(map(str, row.shape))}"
            )
    if not rows:
        raise DataError(f"{str(path)!r} holds no vectors")
    return rows


@dataclass(frozen=True)
class PTI(Method):
    """`x ← n(n(x) + λ·(1 + max(0, cos(x, −v)))·n(v))·‖x‖` for each head's cached key and value."""

    keys: float = setting(0.1, "weight λ on keys; 0: as they are", "authors' code", low=0)
    values: float = setting(0.6, "weight λ on values; 0: as they are", "authors' code", low=0)
    where: str = setting(
        "both", "which tokens are turned", "authors' code; text alone: paper",
        options=("both", "image", "text"),
    )  # fmt: skip
    vectors: str | Shifts = setting("", "file of vectors, made for this model", "ours")

    paper: ClassVar[str] = "arXiv 2604.25642"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.shifts  # read now, so that a bad file is an error here

    @cached_property
    def shifts(self) -> Shifts:
        """The vectors by layer; none if no file is named."""
        if isinstance(self.vectors, str):
            return read_shifts(self.vectors) if self.vectors else {}
        return self.vectors

    def settings(self) -> dict[str, Any]:
        named = self.vectors if isinstance(self.vectors, str) else "made in memory"
        return super().settings() | {"vectors": named}

    def acts_in(self, layers: int) -> Collection[int]:
        if not self.shifts:
            raise SettingError("pti needs vectors: name a file, as in pti.vectors=FILE.safetensors")
        return self.shifts

    def prompt_cache(
        self,
        keys: Float[Tensor, "batch heads key dim"],
        values: Float[Tensor, "batch heads key dim"],
        at: AtLayer,
    ) -> tuple[Float[Tensor, "batch heads key dim"], Float[Tensor, "batch heads key dim"]]:
        assert at.now is not None
        shift = self.shifts[at.layer].to(keys.device)
        if shift.shape[2:] != (keys.shape[1], keys.shape[3]):
            raise DataError(
                f"the vectors of pti are of {shift.shape[2]} heads of {shift.shape[3]}, layer "
                f"{at.layer} of this model has {keys.shape[1]} of {keys.shape[3]}"
            )
        now, columns = at.now, torch.arange(at.now.text.length, device=keys.device)
        last = columns.new_tensor([now.text.end - 1 - now.start]) if now.last is None else now.last
        before = (now.start + last.to(columns) - 1)[:, None]
        text = now.text.columns(columns == before, keys.shape[2])
        masks = {"image": at.image, "text": text & ~at.image}
        out = []
        for which, (states, weight) in enumerate(((keys, self.keys), (values, self.values))):
            new = states
            for place, (name, mask) in enumerate(masks.items()):
                if weight and self.where in (name, "both"):
                    moved = turned(states, shift[place, which][:, None], weight, against=True)
                    new = torch.where(mask[:, None, :, None], moved.to(new.dtype), new)
            out.append(new)
        return out[0], out[1]
