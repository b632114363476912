"""`Text`: what is known of a batch of growing texts; `Pass`: the positions one forward adds to it.

A text belongs to the cache that holds its keys, and everything known of it belongs to positions.
New positions are appended; positions that the caller cut are cut. Rows up to the prompt's end are
the prompt's, in however many passes they come. All others were generated, however many of them a
pass brings.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from lvlm_fix.core.passes import Pass, generated_pass, prompt_pass
from lvlm_fix.errors import InputError

__all__ = ["Pass", "State", "Text"]

ROOM = 256  # columns to spare, so that a growing text seldom moves the masks


class State:
    """What a watch knows of one text. A twin that keeps anything overrides these methods."""

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        """Follow the beams of each sample."""

    def cut(self, columns: int, *, prompt: bool) -> None:
        """The last `columns` are gone; `prompt`: some of the prompt is among them."""

    def widen(self, columns: int) -> None:
        """Give every mask over columns so many of them; new ones are empty."""


@dataclass(eq=False)
class Text:
    """Masks over columns (they grow with the text and have room to spare), and what is known."""

    owner: object  # whose text it is: another attach does not know it
    image_tokens: tuple[int, ...]
    batch: int
    static: bool  # the cache has its final width from the start
    device: torch.device
    length: int = 0  # columns in use
    end: int = 0  # columns of the prompt
    shown: Tensor = field(init=False)  # on the CPU, batch columns: image tokens of the prompt
    valid: Tensor = field(init=False)  # the same: what is not padding
    prompt_ids: Tensor = field(init=False)  # the same: ids of the prompt
    written: list[Tensor] = field(default_factory=list)  # ids passed behind what was read
    widest: int = 0  # columns of a static cache
    kept: dict[Any, State] = field(default_factory=dict)  # by watch
    edited: dict[int, Tensor] = field(default_factory=dict)  # by method: rows that changed
    # by layer: keys and values that the cache is to hold behind this pass
    rewritten: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    settled: bool = False  # the prompt's cached keys or values were edited

    def __post_init__(self) -> None:
        self.shown = torch.zeros(self.batch, 0, dtype=torch.bool)
        self.valid, self.prompt_ids = self.shown, self.shown.long()
        self._upload()
        self.position = torch.zeros(1, dtype=torch.long, device=self.device)

    def _upload(self) -> None:
        """Masks on the device, from those on the CPU."""
        behind = self.shown.cumsum(-1) > 0
        some = self.shown.any(-1)
        self.any_with_image, self.all_with_image = bool(some.any()), bool(some.all())
        self.image, self.before_image, self.with_image = (
            mask.to(self.device, non_blocking=True)
            for mask in (self.shown, self.valid & ~behind, some)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Text:
        """A copied cache goes on by itself; its watches stay the same."""
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.written, copied.position = list(self.written), self.position.clone()
        copied.edited = {number: count.clone() for number, count in self.edited.items()}
        copied.kept = {watch: copy.deepcopy(state, memo) for watch, state in self.kept.items()}
        return copied

    def advance(self, ids: Tensor, valid: Tensor | None, promised: int | None) -> Pass:
        """The pass that appends `ids` (batch count); `promised`: where the prompt will end.

        Raises `InputError` if its batch differs from the text's.
        """
        if len(ids) != self.batch:
            raise InputError(
                f"this cache holds {self.batch} texts, but {len(ids)} prompts continue from it:"
                " pass as many"
            )
        start, count = self.length, ids.shape[1]
        if promised is None and count == 1 and start:
            promised = self.end
        end = start + count if promised is None else promised
        self.length = start + count
        self.position.add_(count) if start else self.position.fill_(count - 1)
        if start >= end:
            if self.length > self.image.shape[1]:
                self.widen(self.length + ROOM)
            self.written.append(ids)
            return generated_pass(self, ids, start)
        former, self.end = self.end, end
        self._read(ids, valid, start, min(self.length, end))
        self.widen(self.length if self.static else self.length + ROOM)
        return prompt_pass(self, ids, start, former)

    def _read(self, ids: Tensor, valid: Tensor | None, start: int, stop: int) -> None:
        """Take in the columns of the prompt that this pass brings: the device is asked once."""
        new = ids[:, : stop - start]
        kept = torch.ones_like(new) if valid is None else valid[:, : stop - start].to(new)
        host, known = torch.stack((new, kept)).cpu()
        grown = start - self.shown.shape[1]  # the text generated in between
        between = torch.cat(self.written, 1).cpu() if grown else host[:, :0]
        self.shown = torch.cat((pad(self.shown, (0, grown)), _among(host, self.image_tokens)), 1)
        self.valid = torch.cat((pad(self.valid, (0, grown), value=True), known.bool()), 1)
        self.prompt_ids = torch.cat((self.prompt_ids, between, host), 1)
        self.written = [ids[:, stop - start :]] if stop - start < ids.shape[1] else []
        self._upload()

    def cut(self, length: int) -> None:
        """Keep only the first `length` columns: the caller cropped the cache."""
        prompt = length < self.end
        if prompt and self.settled:
            raise InputError(
                "the prompt's cached keys were edited, so the prompt cannot be cut: pass it again"
            )
        read = self.shown.shape[1]
        if length < read:
            self.shown, self.valid, self.prompt_ids = (
                mask[:, :length] for mask in (self.shown, self.valid, self.prompt_ids)
            )
            self.end, self.written = min(self.end, length), []
            self._upload()
            self.widen(length + ROOM)
        else:
            together = torch.cat(self.written, 1)[:, : length - read] if self.written else None
            self.written = [] if together is None else [together]
        for state in self.kept.values():
            state.cut(self.length - length, prompt=prompt)
        self.length = length
        self.position.fill_(length - 1)

    def ids(self) -> Int[Tensor, "batch columns"]:
        """The ids of all tokens so far, padding among them."""
        return torch.cat((self.prompt_ids.to(self.device), *self.written), 1)

    def widen(self, columns: int) -> None:
        """Give every mask at least so many columns; new ones are empty."""
        columns = max(columns, self.widest)
        self.image, self.before_image = wide(self.image, columns), wide(self.before_image, columns)
        for state in self.kept.values():
            state.widen(columns)

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        """Follow the beams: of one sample they share the prompt, and differ in what grows."""
        self.written = [ids.index_select(0, index.to(ids.device)) for ids in self.written]
        for state in self.kept.values():
            state.reorder(index)

    def select(self, index: Int[Tensor, " rows"]) -> None:
        """Go on with some samples, or with several copies of them."""
        host = index.cpu()
        self.shown, self.valid, self.prompt_ids = (
            mask[host] for mask in (self.shown, self.valid, self.prompt_ids)
        )
        self.batch = len(host)
        self._upload()
        self.reorder(index)
        self.widen(self.length if self.static else self.length + ROOM)

    def columns(
        self, mask: Shaped[Tensor, "*rest columns"], n_keys: int
    ) -> Shaped[Tensor, "*rest key"]:
        """The part of a mask that belongs to `n_keys` keys: the last ones in a window, otherwise
        the first.
        """
        if n_keys == mask.shape[-1]:
            return mask
        if self.static and n_keys < mask.shape[-1]:  # where a window starts is on the device
            start = (self.position.to(mask.device) + 1 - n_keys).clamp_min(0)
            return mask.index_select(-1, start + torch.arange(n_keys, device=mask.device))
        start = max(0, self.length - n_keys)
        return wide(mask[..., start : start + n_keys], n_keys)


def wide(mask: Shaped[Tensor, "*rest columns"], columns: int) -> Shaped[Tensor, "*rest wide"]:
    """The mask with so many columns, new ones empty."""
    return pad(mask, (0, columns - mask.shape[-1])) if mask.shape[-1] != columns else mask


def _among(ids: Tensor, tokens: tuple[int, ...]) -> Tensor:
    return torch.isin(ids, torch.tensor(tokens))
