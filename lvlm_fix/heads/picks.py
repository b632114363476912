"""`PicksHeads`: a method that acts on some heads, by its own scores or by a table of any score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.method import Method, setting

__all__ = ["PicksHeads", "upper_half"]


def upper_half(scores: Float[Tensor, "*batch heads"]) -> Bool[Tensor, "*batch heads"]:
    """Heads whose score exceeds the layer's median (arXiv 2412.13949, alg. 1); of two middle ones
    their mean.
    """
    return scores > scores.quantile(0.5, dim=-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class PicksHeads(Method):
    """Base of the methods that pick heads. With a `table`, the heads are the same for every prompt
    and known before it.

    Raises `DataError` where the table cannot be read, and when it is used on a model of another
    shape.
    """

    table: str | HeadTable = setting(
        "", "head table that picks the heads; empty: as the method says", "ours"
    )
    top: int = setting(
        0, "how many heads of the table; 0: those above their layer's median", "ours", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top and not self.table:
            raise SettingError(
                f"top counts heads of a table: name one, as in {self.method_name()}.table=heads.json"
            )
        if (
            self.scoring is not None
        ):  # read now, so that a bad file is an error here; no pass is needed for scores
            object.__setattr__(self, "needs", self.needs - {"no_image", "weights"})

    @cached_property
    def scoring(self) -> HeadTable | None:
        """The table that picks the heads; None without one."""
        return (
            HeadTable.load(self.table)
            if isinstance(self.table, str) and self.table
            else self.table or None
        )

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"table": str(self.table)}

    def given_heads(
        self, layers: int, heads: int
    ) -> tuple[Float[Tensor, "layers heads"], Bool[Tensor, "layers heads"]] | None:
        if self.scoring is None:
            return None
        if self.scoring.mean.shape != (layers, heads):
            found = " × ".join(map(str, self.scoring.mean.shape))
            raise DataError(
                f"{self.method_name()}: the head table ({self.scoring}) has {found} layers × heads, this model has "
                f"{layers} × {heads}; make one for it with `heads score`"
            )
        scores = torch.tensor(self.scoring.mean, dtype=torch.float32)
        if not self.top:
            return scores, upper_half(scores)
        acting = torch.zeros(layers, 1, dtype=torch.bool)
        acting[list(self.acts_in(layers))] = True
        order = (
            scores.masked_fill(~acting | scores.isnan(), -torch.inf)
            .flatten()
            .argsort(descending=True, stable=True)
        )
        chosen = torch.zeros(layers * heads, dtype=torch.bool)
        chosen[order[: self.top]] = True
        return scores, chosen.reshape(layers, heads) & acting & ~scores.isnan()
