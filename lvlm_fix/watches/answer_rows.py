"""`AnswerRows`: what the newest row of a generated text attends to, the largest over the heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from lvlm_fix.core.at import AtLayer, Host, Live, Rows, Watch, kept
from lvlm_fix.core.caches import text_in
from lvlm_fix.core.text import State

__all__ = ["AnswerRows", "NewRow"]


@dataclass
class NewRow:
    """The newest row: the largest weight of all heads by key, made to sum to 1 again."""

    answer: Float[Tensor, "batch key"]  # on the text generated since the prompt
    image: Float[Tensor, " batch"]  # on all image tokens together


@dataclass
class _State(State):
    found: NewRow | None = None


@dataclass(frozen=True)
class AnswerRows(Watch[NewRow]):
    """The newest generated row in one layer, before any edit. A method that decodes reads it by
    `of`.
    """

    def live(self, host: Host) -> Live[NewRow]:
        return _Live(self)

    def of(self, cache: Cache) -> NewRow | None:
        """Of the text in a cache; None where nothing was generated."""
        text = text_in(cache)
        return None if text is None else kept(text, self, _State).found


class _Live(Live[NewRow]):
    wants_new_rows = True

    def look(self, at: AtLayer, rows: Rows) -> None:
        now = at.now
        if now is None or now.prompt_rows:
            return
        largest = rows.weights[:, :, -1].amax(1)  # batch key
        largest = largest / largest.sum(-1, keepdim=True)
        on_image = torch.where(at.image, largest, 0.0).sum(-1)
        found = NewRow(largest[:, now.text.end :], on_image)
        kept(now.text, self.watch, _State).found = found

    def value(self, at: AtLayer) -> NewRow:
        assert at.now is not None
        found = kept(at.now.text, self.watch, _State).found
        assert found is not None
        return found
