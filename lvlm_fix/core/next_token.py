"""The edits of the next token's logits, in every row of a pass that predicts a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lvlm_fix.core.at import AtToken, Live, Watch
from lvlm_fix.core.call import Call
from lvlm_fix.core.method import Method
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import InputError

__all__ = ["NextToken", "targets"]

NO_GRADIENT = "no gradient goes through edits of the next token: train without these methods"


def targets(now: Pass) -> list[tuple[int, Int[Tensor, " batch"]]]:
    """Each token that this pass predicts: how many were generated before it, and by which rows."""
    end, found = now.text.end, list[tuple[int, Tensor]]()
    if now.last is not None:
        found.append((0, now.last))
    for row in range(now.prompt_rows, now.count):
        here = torch.full((now.text.batch,), row, device=now.text.device)
        found.append((now.start + row + 1 - end, here))
    return found


class _Refusing(torch.autograd.Function):
    """Edited logits, through which no gradient goes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, edited: Tensor) -> Tensor:
        return edited.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise InputError(NO_GRADIENT)


class NextToken:
    """The methods that edit the next token's logits, in order."""

    def __init__(
        self, methods: Sequence[Method], depth: int, lives: Mapping[Watch[Any], Live[Any]]
    ) -> None:
        here = "next_token_logits"
        self._acting = [(i, m) for i, m in enumerate(methods) if here in m.edits()]
        self._depth, self._lives = depth, lives

    def edit(self, now: Pass, call: Call, output: Any) -> None:
        """Edit the logits that the model's output keeps, in samples that have an image.

        Raises `InputError` if the output has no logits to edit, or if a loss rests on them.
        """
        if not self._acting:
            return
        logits = getattr(output, "logits", None)  # a plain tuple has none
        if logits is None:
            raise InputError(
                "the next token's logits are edited in the model's output: call the whole model, "
                "with return_dict on"
            )
        if call.labelled:
            raise InputError(f"the loss is that of the unmodified logits: {NO_GRADIENT}")
        with torch.no_grad():
            edited, kept = logits, logits.shape[1]
            for step, row in targets(now):
                at = (row - (now.count - kept)).to(logits.device)
                edited = self._at(now, step, row, edited, at)
        output.logits = _Refusing.apply(logits, edited) if logits.requires_grad else edited

    def _at(self, now: Pass, step: int, row: Tensor, logits: Tensor, at: Tensor) -> Tensor:
        """The logits, edited for one token of each sample."""
        samples = torch.arange(len(at), device=logits.device)
        place = samples, at.clamp_min(0)
        plain = new = logits[place]
        active: Bool[Tensor, " batch 1"] = (now.text.with_image.to(at.device) & (at >= 0))[:, None]
        seen = AtToken(self._depth, step, self._lives, row, now)
        for number, method in self._acting:
            edited = method.next_token_logits(new, seen)
            if edited is not new:
                edited = torch.where(active, edited.to(new.dtype), new)
                now.changed.append((number, (new, edited)))
                new = edited
        return logits if new is plain else logits.index_put(place, new)
