"""What one text is told as, while a model writes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from lvlm_fix.ask.sentences import sentences
from lvlm_fix.models import end_tokens

__all__ = ["Begun", "Ended", "Event", "Piece", "Sentences", "Writer"]


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
    """Hears every token of one text: tells what is new, and says when to stop.

    Where it is `held`, tokens are not told as they come: what was checked of them is said to it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        index: int,
        prompt: int,
        stops: tuple[str, ...],
        tell: Callable[[Event], None],
        gone: Callable[[], bool],
        held: bool = False,
    ) -> None:
        self.processor: Any = processor
        self.ends = end_tokens(model)
        self.index, self.prompt, self.stops, self.tell, self.gone = index, prompt, stops, tell, gone
        self.hold = max(map(len, stops), default=1) - 1  # a stop may have begun here
        self.text, self.shown, self.tokens, self.ended, self.held = "", "", 0, False, held

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        ids = input_ids[0, self.prompt :].tolist()
        text = self.processor.decode(ids, skip_special_tokens=True)
        self.text, self.tokens = self.cut(text), len(ids)
        cut = self.text != text
        self.ended = cut or ids[-1] in self.ends
        if not (cut or self.held):
            self._show(steady(text[: len(text) - self.hold].lstrip()))
        done = cut or self.gone()
        return torch.full((len(input_ids),), done, device=input_ids.device, dtype=torch.bool)

    def cut(self, text: str) -> str:
        """The text up to the first stop string."""
        cuts = [text.index(stop) for stop in self.stops if stop in text]
        return text[: min(cuts, default=len(text))]

    def say(self, text: str) -> None:
        """Tell checked text, all there is so far, as far as no stop string may have begun."""
        cut = self.cut(text)
        self._show((cut if cut != text else text[: len(text) - self.hold]).strip())

    def settle(self, text: str, tokens: int) -> None:
        """Tell a text that was checked as a whole, sentence by sentence."""
        self.text, self.tokens = text.strip(), tokens
        for _, end in sentences(self.text):
            self._show(self.text[:end])

    def finish(self) -> None:
        """Tell the rest of the text, and why it ended."""
        self._show(self.text.strip())
        self.tell(Ended(self.index, "stop" if self.ended else "length", self.tokens))

    def _show(self, text: str) -> None:
        if len(text) > len(self.shown) and text.startswith(self.shown):
            self.tell(Piece(self.index, text[len(self.shown) :]))
            self.shown = text


class Sentences(BaseStreamer):
    """Is given the tokens of each sentence that holds, and says them to a writer."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.ids = writer, list[int]()
        self._prompt = True  # what comes first is the prompt

    def put(self, value: Tensor) -> None:
        if not self._prompt:
            self.ids += value.flatten().tolist()
            self.writer.say(self.writer.processor.decode(self.ids, skip_special_tokens=True))
        self._prompt = False

    def end(self) -> None:
        """The rest is told by `settle`."""


def steady(text: str) -> str:
    """What no further token can change: whole words, and every sign of scripts without spaces."""
    if text and "\u2e80" <= text[-1] < "\ufe00":
        return text
    words = re.match(r".*(?=\s)", text, re.DOTALL)
    return words[0].rstrip() if words else ""
