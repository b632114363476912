"""`EarlyLayers`: hidden states that enter some layers, read as logits of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvlm_fix.core.at import AtToken, Host, Watch
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import ModelError
from lvlm_fix.watches.read_out import ReadOut, close

__all__ = ["EarlyLayers"]


@dataclass(frozen=True)
class EarlyLayers(Watch["Float[Tensor, 'batch layers vocabulary']"]):
    """What enters `layers`, at the row that predicts the token, through final norm and head.

    `at[EarlyLayers((2, 4))]`: batch layers vocabulary. Without `norm`, through the head alone.
    """

    layers: tuple[int, ...]
    norm: bool = True

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


class _Live(ReadOut[Float[Tensor, "batch layers vocabulary"]]):
    def __init__(self, watch: EarlyLayers, host: Host) -> None:
        super().__init__(watch)
        self._layers, self._normed, self._host = watch.layers, watch.norm, host
        self._norm: Any = dict(host.family.decoder.named_children()).get("norm")
        self._head: Any = host.model.get_output_embeddings()
        if self._norm is None or self._head is None:
            missing = "final norm" if self._norm is None else "output embeddings"
            raise ModelError(
                f"{type(host.model).__name__}: early layers cannot be read, its {missing} was not "
                "found"
            )

    def attach(self, attached: Attached) -> None:
        blocks = self._host.family.layers
        self._host.entering(attached, self._layers, self._keep)
        attached.after(blocks[-1], self._leave)

    def _keep(self, layer: int, hidden: Tensor) -> None:
        self._found[layer] = hidden

    def _leave(self, _: Any, args: tuple[Any, ...], output: Any) -> None:
        if self._host.running():
            hidden = output if isinstance(output, Tensor) else output[0]
            self._found[len(self._host.family.layers)] = hidden

    def agrees(
        self, now: Pass, last: Int[Tensor, " batch"], own: Float[Tensor, "batch vocabulary"]
    ) -> bool:
        read = self._read((len(self._host.family.layers),), last, normed=True)[:, 0]
        if not close(read.float().to(own.device), own):
            raise ModelError(
                f"{type(self._host.model).__name__}: its logits are not norm and output embeddings "
                "alone; early layers differ"
            )
        return True

    def _read(
        self, layers: tuple[int, ...], row: Tensor, *, normed: bool
    ) -> Float[Tensor, "batch layers vocabulary"]:
        device = self._head.weight.device
        hidden = torch.stack([self.at_row(layer, row).to(device) for layer in layers], 1)
        return self._head(self._norm(hidden) if normed else hidden)

    def at_token(self, at: AtToken) -> Float[Tensor, "batch layers vocabulary"]:
        assert at.row is not None
        return self._read(self._layers, at.row, normed=self._normed)
