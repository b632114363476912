"""`Calibrated`: the model's attention on its own text, as measured before (`heads curves`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Watch
from lvlm_fix.errors import DataError, ModelError
from lvlm_fix.heads.curves import Curves, shipped_curves
from lvlm_fix.models import folder_of
from lvlm_fix.private import name_of

__all__ = ["Calibrated", "Levels"]


class Levels(NamedTuple):
    """Mean attention on one token of the written text in one layer, fraction 0–1."""

    real: Float[Tensor, " heads"]
    invented: Float[Tensor, " heads"]


@dataclass(frozen=True)
class Calibrated(Watch[Levels]):
    """The curves given, or those that come with the model: `at[Calibrated(curves)]`, two of heads.

    Raises `ModelError` where there are none and `DataError` for those of another shape.
    """

    curves: Curves | None = None

    def live(self, host: Host) -> Live[Levels]:
        curves = self.curves
        if curves is None and name_of(host.model) == folder_of("tiny"):
            curves = shipped_curves("tiny")
        if curves is None:
            raise ModelError(
                f"{type(host.model).__name__} has no measured curves: make them with `lvlm-fix "
                "heads curves`, and name the file, as in adaiat.curves=curves.json"
            )
        heads = host.family.decoder.config.num_attention_heads
        if curves.real.shape != (shape := (len(host.family.layers), heads)):
            raise DataError(
                f"the {curves} are of {' × '.join(map(str, curves.real.shape))} layers × heads, "
                f"this model has {' × '.join(map(str, shape))}; make them with `heads curves`"
            )
        return _Live(self, curves)


class _Live(Live[Levels]):
    def __init__(self, watch: Calibrated, curves: Curves) -> None:
        super().__init__(watch)
        self._levels = [
            Levels(*(torch.tensor(part, dtype=torch.float32) for part in parts))
            for parts in zip(curves.real, curves.invented, strict=True)
        ]

    def value(self, at: AtLayer) -> Levels:
        found, device = self._levels[at.layer], at.image.device
        if found.real.device != device:
            found = self._levels[at.layer] = Levels(*(part.to(device) for part in found))
        return found
