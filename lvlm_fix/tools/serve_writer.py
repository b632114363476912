"""What one text is told as, while a model writes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, ProcessorMixin, StoppingCriteria

from lvlm_fix.models import end_tokens

__all__ = ["Begun", "Ended", "Event", "Piece", "Writer"]


@dataclass(frozen=True)
class Begun:
    """The prompt was read; from here on there is text."""

    prompt_tokens: int


@dataclass(frozen=True)
class Piece:
    """What is new in text `index`."""

    index: int
    text: str


@dataclass(frozen=True)
class Ended:
    """Text `index` is whole."""

    index: int
    reason: Literal["stop", "length"]
    tokens: int


Event = Begun | Piece | Ended


class Writer(StoppingCriteria):
    """Hears every token of one text: tells what is new, and says when to stop."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        index: int,
        prompt: int,
        stops: tuple[str, ...],
        tell: Callable[[Event], None],
        gone: Callable[[], bool],
    ) -> None:
        self.processor: Any = processor
        self.ends = end_tokens(model)
        self.index, self.prompt, self.stops, self.tell, self.gone = index, prompt, stops, tell, gone
        self.hold = max(map(len, stops), default=1) - 1  # a stop may have begun here
        self.text, self.shown, self.tokens, self.ended = "", "", 0, False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        ids = input_ids[0, self.prompt :].tolist()
        text = self.processor.decode(ids, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in self.stops if stop in text]
        self.text, self.tokens = text[: min(cuts, default=len(text))], len(ids)
        self.ended = bool(cuts) or ids[-1] in self.ends
        self._show(steady(text[: len(text) - self.hold].lstrip()) if not cuts else "")
        done = bool(cuts) or self.gone()
        return torch.full((len(input_ids),), done, device=input_ids.device, dtype=torch.bool)

    def finish(self) -> None:
        """Tell the rest of the text, and why it ended."""
        self._show(self.text.strip())
        self.tell(Ended(self.index, "stop" if self.ended else "length", self.tokens))

    def _show(self, text: str) -> None:
        if len(text) > len(self.shown) and text.startswith(self.shown):
            self.tell(Piece(self.index, text[len(self.shown) :]))
            self.shown = text


def steady(text: str) -> str:
    """What no further token can change: whole words, and every sign of scripts without spaces."""
    if text and "\u2e80" <= text[-1] < "\ufe00":
        return text
    words = re.match(r".*(?=\s)", text, re.DOTALL)
    return words[0].rstrip() if words else ""
