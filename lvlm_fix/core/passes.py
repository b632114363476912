"""`Pass`: the positions that one forward adds to a text, and which of its rows may be edited."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from lvlm_fix.core.text import Text

__all__ = ["Pass", "generated_pass", "prompt_pass"]


@dataclass(eq=False)
class Pass:
    """The rows of one forward: positions `start` to `start + count` of a text. Never changed."""

    text: Text
    start: int
    count: int
    prompt_rows: int  # its first so many rows are the prompt's; 0 in plain decoding
    complete: bool  # the prompt ends in this pass or before it
    begins: bool  # it is the text's first
    index: Int[Tensor, " row"] | None  # rows an edit may touch; None: the one there is
    active: Bool[Tensor, "batch row"]  # of these, text behind the first image
    final: Bool[Tensor, "batch row"]  # of these, rows that predict a token of the answer
    last: Int[Tensor, " batch"] | None = None  # each sample's last prompt row, where it is here
    whole: bool = False  # the one row there is may be edited in every sample
    ids: Tensor | None = None  # batch count
    call: Any = None  # what the forward was given (`core/call.py`)
    former: int = 0  # columns of the prompt before this pass
    masks: dict[Any, Any] = field(default_factory=dict)  # cut for so many keys, on a device
    reached: list[int] = field(default_factory=list)  # layers whose attention passed
    changed: list[tuple[int, Any]] = field(default_factory=list)  # method, and rows it changed
    thread: int = field(default_factory=threading.get_ident)

    @property
    def end(self) -> int:
        """Columns of the text after this pass."""
        return self.start + self.count

    @property
    def editable(self) -> bool:
        """Whether any row of this pass may be edited."""
        return self.text.any_with_image and (self.index is None or len(self.index) > 0)

    def withdraw(self) -> None:
        """Undo this pass, which was refused before it ran."""
        text = self.text
        text.end = self.former if self.prompt_rows else text.end
        if self.start:
            text.cut(self.start)
        else:
            text.owner = None


def generated_pass(text: Text, ids: Tensor, start: int) -> Pass:
    """A pass over tokens after the prompt: every one of them predicts another."""
    count = ids.shape[1]
    rows = text.with_image[:, None].expand(-1, count)
    index = None if count == 1 else torch.arange(count, device=text.device)
    whole = count == 1 and text.all_with_image
    return Pass(text, start, count, 0, True, False, index, rows, rows, whole=whole, ids=ids)


def prompt_pass(text: Text, ids: Tensor, start: int, former: int) -> Pass:
    """A pass that begins in the prompt; after its end it may bring generated tokens too."""
    count = ids.shape[1]
    rows = min(text.end, text.length) - start
    complete = text.length >= text.end
    columns = torch.arange(text.length)
    shown, valid = (
        pad(mask, (0, text.length - mask.shape[1]), value=value)
        for mask, value in ((text.shown, False), (text.valid, True))
    )
    behind = shown.cumsum(-1) > 0
    last = (columns[: text.end] * valid[:, : text.end]).amax(-1)  # of each sample's prompt
    final = (columns >= text.end) | ((columns == last[:, None]) & complete)
    final = (final & shown.any(-1, keepdim=True))[:, start:]
    active = (valid & behind & ~shown)[:, start:]
    index = (active | final).any(0).nonzero().flatten()
    here = complete and bool((last >= start).all())
    on = text.device
    return Pass(
        text, start, count, rows, complete, start == 0, index.to(on),
        active[:, index].to(on), final[:, index].to(on),
        (last - start).to(on) if here else None, ids=ids, former=former,
    )  # fmt: skip
