"""The edits of what a decoder layer, or its MLP, gives: `hidden_states`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lvlm_fix.core.method import Method
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import ModelError

if TYPE_CHECKING:
    from lvlm_fix.core.layer import Layer

__all__ = ["HiddenStates"]


class HiddenStates:
    """The methods that edit the hidden states of one layer, in order."""

    def __init__(self, layer: Layer, methods: tuple[tuple[int, Method], ...]) -> None:
        self._layer = layer
        self._acting = [(i, m) for i, m in methods if "hidden_states" in m.edits()]

    def hook(self, part: str) -> Any:
        """A hook that edits what this layer (or its MLP) gives; None if no method does."""
        methods = [(i, m) for i, m in self._acting if m.part == part]

        def edit(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            now = self._layer.now()
            if now is None or not now.text.any_with_image:
                return None
            hidden = output if isinstance(output, Tensor) else output[0]
            if hidden.ndim != 3:
                raise ModelError(
                    f"the {part} of layer {self._layer.number} gives {hidden.ndim} axes, not batch,"
                    " query and width: its hidden states cannot be edited"
                )
            text = now.text  # a static cache's masks keep their width: a graph is compiled once
            width = text.image.shape[1] if text.static else text.length
            at = self._layer.at(now, width, hidden.device)
            at.rows = _living(now, hidden.device)
            new = hidden
            for number, method in methods:
                edited = method.hidden_states(new, at)
                if edited is not new:
                    edited = torch.where(at.rows[..., None], edited.to(hidden.dtype), new)
                    now.changed.append((number, hidden.shape[1]))
                new = edited
            if new is hidden:
                return None
            return new if isinstance(output, Tensor) else (new, *output[1:])

        return edit if methods else None


def _living(now: Pass, device: torch.device) -> Tensor:
    """Rows that are not padding, in samples with an image: batch query."""
    key = "living", device
    if key not in now.masks:
        text, rows = now.text, now.prompt_rows
        if not rows:
            return text.with_image.to(device)[:, None].expand(-1, now.count)
        living = text.valid[:, now.start : now.start + rows] & text.shown.any(-1, keepdim=True)
        grown = text.shown.any(-1, keepdim=True).expand(-1, now.count - rows)
        now.masks[key] = torch.cat((living, grown), 1).to(device)
    return now.masks[key]
