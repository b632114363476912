"""`Answered`: what the model answers about a list of objects, asked once behind the prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lvlm_fix.ask.asker import Answers, Asker
from lvlm_fix.core.at import AtToken, Host, Live, Watch, kept
from lvlm_fix.core.call import Call, cache_in
from lvlm_fix.core.text import Pass, State
from lvlm_fix.models import processor_of

__all__ = ["Answered", "Asked"]


class Asked(NamedTuple):
    """What a text may be held to."""

    odds: list[Answers]  # of each row
    written: list[list[int]]  # tokens generated so far, of each row
    asker: Asker


@dataclass(frozen=True)
class Answered(Watch[Asked]):
    """Log-odds of Yes against No for `objects`, once for each prompt; and the tokens since."""

    objects: tuple[str, ...]

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


@dataclass
class _State(State):
    odds: list[Answers] = field(default_factory=list)

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.odds = [self.odds[row] for row in index.tolist()]


class _Live(Live[Asked]):
    whole_prompt = True

    def __init__(self, watch: Answered, host: Host) -> None:
        super().__init__(watch)
        self._objects = watch.objects
        self._asker = Asker(host.model, processor_of(host.model))

    def end(self, now: Pass, call: Call, output: object) -> None:
        """Ask behind the prompt's first pass: its photo is in the cache."""
        if not (now.begins and now.complete):
            return
        cache = call.cache or cache_in(dict(output) if isinstance(output, dict) else {})
        given = dict(call.given) | ({} if cache is None else {"cache": cache})
        shown = now.text.shown.any(-1).tolist()
        state = kept(now.text, self.watch, _State)
        state.odds = self._asker.ask(given, [self._objects if here else () for here in shown])

    def at_token(self, at: AtToken) -> Asked:
        assert at.now is not None
        text, written = at.now.text, list[list[int]]()
        since = at.now.end - text.end  # tokens of this turn, those of this pass included
        if since > 0 and text.written:
            tokens = torch.cat(text.written, 1)
            start = tokens.shape[1] - since
            written = tokens[:, start : start + at.step].tolist()
        return Asked(kept(text, self.watch, _State).odds, written or [[]] * text.batch, self._asker)
