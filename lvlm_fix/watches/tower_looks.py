"""`TowerLooks`: image tokens that the vision tower's CLS token looks at, local ones and summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.text import Pass, State, wide
from lvlm_fix.watches.tower import ClsRows, looked

__all__ = ["TowerLooks", "local_and_summary"]


def local_and_summary(
    first: Float[Tensor, " patches"], penultimate: Float[Tensor, " patches"], share: float = 0.25
) -> tuple[Bool[Tensor, " patches"], Bool[Tensor, " patches"]]:
    """Local tokens, the `share` with the most CLS attention in the first layer; summary tokens,
    outliers in the last but one (above Q3 + 1.5·IQR). A summary token is not local.
    """
    low, high = penultimate.quantile(0.25), penultimate.quantile(0.75)
    summary = penultimate > high + 1.5 * (high - low)
    local = torch.zeros_like(summary)
    local[first.topk(int(share * len(first))).indices] = True
    return local & ~summary, summary


@dataclass(frozen=True)
class TowerLooks(Watch[Float[Tensor, "batch 2 key"]]):
    """Which image tokens are local and which summary, 1 or 0 (`local_and_summary`).

    `at[TowerLooks()]`: batch 2 key. Needs a tower with a CLS token, and image tokens that are its
    patches one to one.
    """

    share: float = 0.25  # fraction of the image tokens that are local

    def live(self, host: Host) -> _Live:
        return _Live(self, host, self.share)

    def needs(self) -> tuple[Watch[Any], ...]:
        return (ClsRows(),)


@dataclass
class _State(State):
    marks: Tensor | None = None  # batch 2 columns

    def widen(self, columns: int) -> None:
        if self.marks is not None:
            self.marks = wide(self.marks, columns)

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        if self.marks is not None:
            self.marks = self.marks.index_select(0, index.to(self.marks.device))


class _Live(Live[Float[Tensor, "batch 2 key"]]):
    whole_prompt = True

    def __init__(self, watch: TowerLooks, host: Host, share: float) -> None:
        super().__init__(watch)
        self._host, self._share = host, share
        self._now: Pass | None = None  # over a prompt whose photos were not taken in yet

    def attach(self, attached: Attached) -> None:
        def mark(*_: Any) -> None:
            now, self._now = self._now, None
            if now is not None and self._host.running():
                self._mark(now)

        attached.before(self._host.family.decoder, mark)

    def begin(self, now: Pass) -> None:
        kept(now.text, self.watch, _State)
        self._now = now if now.prompt_rows else None

    @torch.no_grad()
    def _mark(self, now: Pass) -> None:
        """Before the decoder of a prompt: what the tower looked at becomes marks of tokens."""
        text, state, rows = now.text, kept(now.text, self.watch, _State), looked(now.text).rows
        new = text.shown[:, now.start : now.start + now.prompt_rows]
        if rows is None or not new.any():
            return
        marks = torch.zeros(text.batch, 2, text.image.shape[1], device=rows.device)
        if state.marks is not None:
            marks[..., : now.start] = state.marks[..., : now.start]
        for row, here in enumerate(new):  # several photos of a sample are ranked together
            place = here.nonzero().flatten().to(marks.device) + now.start
            if len(place):
                first, penultimate, _ = rows[row, :, place]
                both = local_and_summary(first, penultimate, self._share)
                marks[row, :, place] = torch.stack(both).to(marks.dtype)
        state.marks = marks

    def value(self, at: AtLayer) -> Float[Tensor, "batch 2 key"]:
        assert at.now is not None
        marks = kept(at.now.text, self.watch, _State).marks
        assert marks is not None
        return at.now.text.columns(marks, at.image.shape[1]).to(at.image.device)
