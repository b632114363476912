"""`LastRows`, `TextRows`: attention of a prompt before any edit, for scoring heads."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Rows, Watch, kept
from lvlm_fix.core.text import State, Text

__all__ = ["LastRows", "Prompted", "TextRows", "last_rows"]


@dataclass
class Prompted:
    """Attention rows of a prompt, and the tokens they belong to."""

    logits: Float[Tensor, "batch heads query key"]
    weights: Float[Tensor, "batch heads query key"]
    rows: Bool[Tensor, "batch query"]  # which are the sample's own text
    positions: Int[Tensor, " query"]  # columns of the rows
    ids: Int[Tensor, "batch key"]  # of all tokens


@dataclass
class _State(State):
    found: dict[int, Prompted] = field(default_factory=dict)  # by layer


@dataclass(frozen=True)
class LastRows(Watch[Prompted]):
    """The last prompt row of every sample: one query each."""

    def live(self, host: Host) -> Live[Prompted]:
        return _Live(self, last=True)


@dataclass(frozen=True)
class TextRows(Watch[Prompted]):
    """All rows of text behind the image."""

    def live(self, host: Host) -> Live[Prompted]:
        return _Live(self, last=False)


def last_rows(text: Text) -> dict[int, Prompted]:
    """What `LastRows` knows of a text, by layer."""
    return kept(text, LastRows(), _State).found


class _Live(Live[Prompted]):
    wants_rows = True
    whole_prompt = True

    def __init__(self, watch: Watch[Prompted], *, last: bool) -> None:
        super().__init__(watch)
        self._last = last

    def look(self, at: AtLayer, rows: Rows) -> None:
        now = at.now
        assert now is not None and now.index is not None and now.last is not None
        index = now.index.to(rows.logits.device)
        logits, weights, own = rows.logits, rows.weights, at.rows
        if self._last:
            here = torch.searchsorted(index, now.last.to(index.device))
            samples = torch.arange(len(here), device=index.device)
            logits, weights = (part[samples, :, here][:, :, None] for part in (logits, weights))
            own, index = own[samples, here][:, None], now.last[:1].to(index.device)
        ids = now.text.ids()[:, : now.end]
        found = Prompted(logits, weights, own, index + now.start, ids)
        kept(now.text, self.watch, _State).found[at.layer] = found

    def value(self, at: AtLayer) -> Prompted:
        assert at.now is not None
        return kept(at.now.text, self.watch, _State).found[at.layer]
