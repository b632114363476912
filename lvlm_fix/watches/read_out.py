"""`ReadOut`: a living twin that reads something inside the model as next-token logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvlm_fix.core.at import Live, T_co, Watch
from lvlm_fix.core.text import Pass

__all__ = ["ReadOut", "close"]


class ReadOut(Live[T_co]):
    """What a pass leaves inside the model, kept for the logits that are edited after it; and one
    check that it is read as the model reads it.
    """

    def __init__(self, watch: Watch[T_co]) -> None:
        super().__init__(watch)
        self._found: dict[Any, Tensor] = {}  # of the pass that runs
        self._kept: dict[Any, Tensor] = {}  # of the pass whose logits are edited
        self._checked = False

    def end(self, now: Pass, call: Any, output: Any) -> None:
        """Keep what this pass left: a branch's own pass comes next."""
        self._kept, self._found = self._found, {}
        logits = getattr(output, "logits", None)
        if self._checked or logits is None or now.last is None:
            return
        at = (now.last - (now.count - logits.shape[1])).to(logits.device)
        if bool((at >= 0).all()):
            own = logits[torch.arange(len(at), device=at.device), at].float()
            self._checked = self.agrees(now, now.last, own)

    def agrees(
        self, now: Pass, last: Int[Tensor, " batch"], own: Float[Tensor, "batch vocabulary"]
    ) -> bool:
        """Whether what is read by hand gives `own`, the model's logits at the rows `last`. False:
        this pass cannot tell. Raises `ModelError` if it does not.
        """
        raise NotImplementedError

    def at_row(self, name: Any, row: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """One row of each sample, of what was kept under a name."""
        hidden = self._kept[name]
        at = row.to(hidden.device)
        return hidden[torch.arange(len(at), device=at.device), at]


def close(one: Tensor, other: Tensor) -> bool:
    """Whether both are alike, except for what half precision rounds."""
    return torch.allclose(one, other, rtol=1e-2, atol=1e-2)
