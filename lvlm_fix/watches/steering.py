"""`Steering`: vectors from a file, on the device of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Watch
from lvlm_fix.errors import DataError
from lvlm_fix.vectors.vectors import Vectors

__all__ = ["Steering"]


@dataclass(frozen=True)
class Steering(Watch["Float[Tensor, ' width']"]):
    """The layer's vector: `at[Steering(vectors)]`, width, float32.

    Raises `DataError` for vectors of another width than the model's.
    """

    vectors: Vectors

    def live(self, host: Host) -> _Live:
        embeddings: Any = host.model.get_input_embeddings()
        own = getattr(host.family.decoder.config, "hidden_size", embeddings.weight.shape[1])
        if self.vectors.width != own:
            raise DataError(
                f"{self.vectors}: its vectors are {self.vectors.width} wide, the hidden states of "
                f"this model {own}"
            )
        return _Live(self)


class _Live(Live["Float[Tensor, ' width']"]):
    def __init__(self, watch: Steering) -> None:
        super().__init__(watch)
        self._rows = {layer: row.float() for layer, row in watch.vectors.rows.items()}

    def value(self, at: AtLayer) -> Float[Tensor, " width"]:
        row, device = self._rows[at.layer], at.image.device
        if row.device != device:
            row = self._rows[at.layer] = row.to(device)
        return row
