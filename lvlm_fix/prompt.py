"""`Prompt`: what is known of the batch of prompts being served, found once per prefill."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["Prompt", "Rows"]

ROOM = 256  # columns to spare, so that a growing text seldom moves the masks


@dataclass
class Rows:
    """Rows of a prefill: their numbers, and in which samples each may be edited."""

    index: Int[Tensor, " query"]
    active: Bool[Tensor, "batch query"]
    final: Bool[Tensor, "batch query"]  # of these, each sample's last row
    at: Int[Tensor, " batch"]  # which of them it is


@dataclass
class Prompt:
    """Masks over key positions (columns grow with the text; there is room to spare) and the rows to
    edit.
    """

    image: Bool[Tensor, "batch columns"]
    before_image: Bool[Tensor, "batch columns"]
    valid: Bool[Tensor, "batch columns"]  # not padding
    length: int  # columns in use
    end: int  # columns of the prompt itself
    position: Int[
        Tensor, " 1"
    ]  # the last column in use, where a decoding step (compiled or not) can read and write it
    static: bool  # the cache has its final width from the start
    text: Rows  # text rows behind the first image token
    last: Int[Tensor, " batch"]  # each sample's last prompt row of this pass
    with_image: Bool[Tensor, " batch"]
    any_with_image: bool
    all_with_image: bool
    any_image: bool  # whether any sample has an image and text behind it
    widest: int = 0  # columns of a static cache
    sinks: dict[int, Float[Tensor, "batch 3 columns"]] = field(
        default_factory=dict
    )  # by layer: `sink_masks`
    received: dict[int, Float[Tensor, "batch heads columns"]] = field(
        default_factory=dict
    )  # by layer
    tokens: Int[Tensor, " batch"] | None = None  # how many rows these are means of
    vision: Float[Tensor, "batch 2 columns"] | None = (
        None  # what the vision tower's CLS token looks at
    )
    marks: dict[int, Float[Tensor, "batch columns"]] = field(default_factory=dict)  # by method
    no_image: dict[int, Tensor] = field(default_factory=dict)  # by layer: batch heads dim
    scores: dict[tuple[int, int], Tensor] = field(
        default_factory=dict
    )  # by method and layer: batch heads
    heads: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    edited: dict[int, Int[Tensor, ""]] = field(
        default_factory=dict
    )  # by method: rows × heads that changed

    @classmethod
    def read(
        cls,
        image: Bool[Tensor, "batch query"],
        valid: Bool[Tensor, "batch query"],
        earlier: Prompt | None = None,
        *,
        static: bool = False,
        methods: int = 0,
    ) -> Prompt:
        """The prompt of a prefill, or of a further turn behind an `earlier` one; `methods`: how
        many to count for.
        """
        start = 0 if earlier is None else earlier.length
        if earlier is not None:
            grown = start - earlier.end  # the text generated in between
            image = torch.cat((pad(earlier.image[:, : earlier.end], (0, grown)), image), dim=1)
            valid = torch.cat(
                (pad(earlier.valid[:, : earlier.end], (0, grown), value=True), valid), dim=1
            )
        behind = image.cumsum(-1) > 0
        editable = (valid & behind & ~image)[:, start:]
        index = editable.any(0).nonzero().flatten()
        columns = torch.arange(image.shape[1], device=image.device)
        last = (columns * valid).amax(-1) - start
        with_image = image.any(-1)
        at = torch.searchsorted(index, last).clamp_max(max(len(index) - 1, 0))
        prompt = cls(
            image=image,
            before_image=valid & ~behind,
            valid=valid,
            length=image.shape[1],
            end=image.shape[1],
            position=torch.tensor([image.shape[1] - 1], device=image.device),
            static=static,
            text=Rows(index, editable[:, index], index == last[:, None], at),
            last=last,
            with_image=with_image,
            any_with_image=bool(with_image.any()),
            all_with_image=bool(with_image.all()),
            any_image=len(index) > 0,
        )
        if earlier is not None:
            prompt.sinks, prompt.no_image = earlier.sinks, earlier.no_image
            prompt.received, prompt.tokens = earlier.received, earlier.tokens
            prompt.vision, prompt.marks = earlier.vision, earlier.marks
            prompt.scores, prompt.heads, prompt.edited = (
                earlier.scores,
                earlier.heads,
                earlier.edited,
            )
        else:
            prompt.edited = {
                number: torch.zeros((), dtype=torch.long, device=image.device)
                for number in range(methods)
            }
        return prompt

    def widen(self, columns: int) -> None:
        """Give every mask so many columns; new ones are empty."""
        self.image, self.before_image = (
            _wide(self.image, columns),
            _wide(self.before_image, columns),
        )
        self.valid = _wide(self.valid, columns)
        self.sinks = {layer: _wide(found, columns) for layer, found in self.sinks.items()}
        self.received = {layer: _wide(found, columns) for layer, found in self.received.items()}
        self.marks = {number: _wide(found, columns) for number, found in self.marks.items()}

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        """Follow the beams: of one sample they share the prompt, and differ in what grows with the
        text.
        """
        self.sinks = {
            layer: found.index_select(0, index.to(found.device))
            for layer, found in self.sinks.items()
        }

    def step(self) -> None:
        """One more column is in use: a token was generated."""
        self.position.add_(1)
        self.length += 1
        if (
            self.length > self.image.shape[1]
        ):  # in a static cache only where all layers slide: no key tells its width
            self.widen(self.length + ROOM)

    def columns(
        self, mask: Shaped[Tensor, "*rest columns"], n_keys: int
    ) -> Shaped[Tensor, "*rest key"]:
        """The part of a column mask that belongs to `n_keys` keys: the last ones in a window, else
        from the start.
        """
        if n_keys == mask.shape[-1]:
            return mask
        if (
            self.static and n_keys < mask.shape[-1]
        ):  # a window in a static cache: where it starts is on the device
            start = (self.position.to(mask.device) + 1 - n_keys).clamp_min(0)
            return mask.index_select(-1, start + torch.arange(n_keys, device=mask.device))
        start = max(0, self.length - n_keys)
        return _wide(mask[..., start : start + n_keys], n_keys)


def _wide(mask: Shaped[Tensor, "*rest columns"], columns: int) -> Shaped[Tensor, "*rest wide"]:
    return pad(mask, (0, columns - mask.shape[-1])) if mask.shape[-1] != columns else mask
