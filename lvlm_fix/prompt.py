"""`Prompt`: what is known of the batch of prompts being served, found once per prefill."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Prompt", "Rows"]


@dataclass
class Rows:
    """Rows of a prefill: their numbers, and in which samples each may be edited."""

    index: Int[Tensor, " query"]
    active: Bool[Tensor, "batch query"]


@dataclass
class Prompt:
    """Masks over key positions (columns grow with the text; there is room to spare) and the rows to edit."""

    image: Bool[Tensor, "batch columns"]
    before_image: Bool[Tensor, "batch columns"]
    valid: Bool[Tensor, "batch columns"]  # not padding
    length: int  # columns in use
    text: Rows  # text rows behind the first image token
    last: Int[Tensor, " batch"]  # each sample's last prompt row of this pass
    with_image: Bool[Tensor, " batch"]
    all_with_image: bool
    sinks: dict[int, Bool[Tensor, "batch columns"]] = field(default_factory=dict)  # by layer
    no_image: dict[int, Tensor] = field(default_factory=dict)  # by layer: batch heads dim
    scores: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # by method and layer: batch heads
    heads: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    edited: dict[int, Tensor | int] = field(default_factory=dict)  # by method: rows × heads that changed

    @classmethod
    def read(
        cls, image: Bool[Tensor, "batch query"], valid: Bool[Tensor, "batch query"], earlier: Prompt | None = None
    ) -> Prompt:
        """The prompt of a prefill, or of a further turn behind an `earlier` one."""
        start = 0 if earlier is None else earlier.length
        if earlier is not None:
            image = torch.cat((earlier.image[:, :start], image), dim=1)
            valid = torch.cat((earlier.valid[:, :start], valid), dim=1)
        behind = image.cumsum(-1) > 0
        editable = (valid & behind & ~image)[:, start:]
        index = editable.any(0).nonzero().flatten()
        columns = torch.arange(image.shape[1], device=image.device)
        last = (columns * valid).amax(-1) - start
        with_image = image.any(-1)
        prompt = cls(
            image=image,
            before_image=valid & ~behind,
            valid=valid,
            length=image.shape[1],
            text=Rows(index, editable[:, index]),
            last=last,
            with_image=with_image,
            all_with_image=bool(with_image.all()),
        )
        if earlier is not None:
            prompt.sinks, prompt.no_image = earlier.sinks, earlier.no_image
            prompt.scores, prompt.heads, prompt.edited = earlier.scores, earlier.heads, earlier.edited
        return prompt

    @property
    def any_image(self) -> bool:
        """Whether any sample has an image and text behind it."""
        return len(self.text.index) > 0

    def columns(self, mask: Bool[Tensor, "batch columns"], n_keys: int) -> Tensor:
        """The part of a column mask that belongs to `n_keys` keys: the last ones in a window, else from the start."""
        start = max(0, self.length - n_keys) if n_keys < self.length else 0
        part = mask[:, start : start + n_keys]
        if part.shape[1] == n_keys:
            return part
        return torch.nn.functional.pad(part, (0, n_keys - part.shape[1]))
