"""`ColumnMeans`: what every key receives on average over all rows of the prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Rows, Watch, kept
from lvlm_fix.core.text import State, wide

__all__ = ["ColumnMeans", "Received"]

BLOCK = 128  # rows of attention held at once


@dataclass
class Received:
    """Attention that keys receive, as means over a prompt's rows."""

    mean: Float[Tensor, "batch heads key"]
    tokens: Int[Tensor, " batch"]  # how many rows these are means of


@dataclass
class _State(State):
    found: dict[int, Received] = field(default_factory=dict)  # by layer

    def widen(self, columns: int) -> None:
        for received in self.found.values():
            received.mean = wide(received.mean, columns)

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        for received in self.found.values():
            there = index.to(received.mean.device)
            received.mean = received.mean.index_select(0, there)
            received.tokens = received.tokens.index_select(0, there)


@dataclass(frozen=True)
class ColumnMeans(Watch[Received]):
    """The mean of every column of the prompt's attention, found in blocks of rows, so that no map
    is held. The cost is a second attention over the prompt.
    """

    def live(self, host: Host) -> Live[Received]:
        return _Live(self)


class _Live(Live[Received]):
    wants_rows = True
    whole_prompt = True

    def look(self, at: AtLayer, rows: Rows) -> None:
        now = at.now
        assert now is not None
        state = kept(now.text, self.watch, _State)
        if at.layer in state.found:
            return
        device = rows.logits.device
        valid = now.text.valid[:, now.start : now.start + now.prompt_rows].to(device)
        total = torch.zeros_like(rows.weights[:, :, 0])
        for index in torch.arange(now.prompt_rows, device=device).split(BLOCK):
            weights = rows.some(index).softmax(-1).nan_to_num(0.0)
            total += (weights * valid[:, None, index, None]).sum(2)
        tokens = valid.sum(-1)
        state.found[at.layer] = Received(total / tokens.clamp_min(1)[:, None, None], tokens)

    def value(self, at: AtLayer) -> Received:
        assert at.now is not None
        found = kept(at.now.text, self.watch, _State).found[at.layer]
        n_keys, device = at.image.shape[1], at.image.device
        mean = at.now.text.columns(found.mean, n_keys).to(device)
        return Received(mean, found.tokens.to(device))
