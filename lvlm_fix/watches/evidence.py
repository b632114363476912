"""`Evidence`: which heads look at what the image map shows, and which words followed from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.text import Pass, State, Text, wide
from lvlm_fix.errors import InputError
from lvlm_fix.watches.image_map import ImageMap
from lvlm_fix.watches.own_pass import check_one_token

__all__ = ["Evidence", "Supported", "half"]


def half(scores: Float[Tensor, "batch heads query"]) -> Bool[Tensor, "batch heads query"]:
    """The half of the heads with the largest scores."""
    best = scores.topk(scores.shape[1] // 2, dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)


class Supported(NamedTuple):
    """What the image map says in one layer."""

    heads: Bool[Tensor, "batch heads query"]  # the half that looks most at what the map shows
    words: Float[Tensor, "batch key"]  # evidence of the words behind the image, 0 to 1
    scored: Bool[Tensor, "batch key"]  # which of the keys have any
    behind: Bool[Tensor, "batch key"]  # keys behind the image


@dataclass(frozen=True)
class Evidence(Watch[Supported]):
    """A word's evidence: the map of what its row, or (`shifted`) the row in front of it in the
    answer, attended to, over all layers; clipped in each of `layers`, as it goes, at three standard
    deviations. One row per pass behind the prompt.
    """

    image: ImageMap
    layers: tuple[int, ...]
    shifted: bool = True

    def live(self, host: Host) -> _Live:
        return _Live(self)

    def needs(self) -> tuple[Watch[Any], ...]:
        return (self.image,)


@dataclass
class _State(State):
    clips: int  # in one pass
    behind: Tensor  # batch columns: text behind the last image token, and what is not there yet
    scores: Tensor  # batch columns
    raw: Tensor  # the same, before any clipping
    prompted: Tensor  # the same, at the prompt's end
    end: int = 0  # columns of the prompt
    length: int = 0  # columns in use
    # of the pass that runs, by layer: scores, and what its last row has so far (batch)
    during: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def widen(self, columns: int) -> None:
        if columns > self.behind.shape[1]:
            self.behind = pad(self.behind, (0, columns - self.behind.shape[1]), value=True)
            self.scores, self.raw, self.prompted = (
                wide(part, columns) for part in (self.scores, self.raw, self.prompted)
            )

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.behind, self.scores, self.raw, self.prompted = (
            part.index_select(0, index.to(part.device))
            for part in (self.behind, self.scores, self.raw, self.prompted)
        )

    def cut(self, columns: int, *, prompt: bool) -> None:
        """What was clipped in place is clipped again, pass by pass."""
        if prompt:
            raise InputError("evidence of words cannot follow a cut into the prompt: pass it again")
        self.length -= columns
        self.scores = self.prompted
        order = torch.arange(self.behind.shape[1], device=self.behind.device)
        for row in range(self.end, self.length):
            for _ in range(self.clips):
                self.scores = clipped(self.scores, self.behind & (order <= row))[0]
            self.scores = torch.where(order == row + 1, self.raw, self.scores)


def clipped(
    scores: Float[Tensor, "batch columns"], known: Bool[Tensor, "batch columns"]
) -> tuple[Float[Tensor, "batch columns"], Float[Tensor, "batch columns"], Bool[Tensor, "batch 1"]]:
    """The known scores within three standard deviations of their mean; the same from 0 to 1 by
    their former range; and whether there is any range.
    """
    count = known.sum(-1, keepdim=True)
    low = torch.where(known, scores, math.inf).amin(-1, keepdim=True)
    high = torch.where(known, scores, -math.inf).amax(-1, keepdim=True)
    mean = torch.where(known, scores, 0.0).sum(-1, keepdim=True) / count.clamp_min(1)
    squares = torch.where(known, (scores - mean).square(), 0.0).sum(-1, keepdim=True)
    width = 3 * (squares / (count - 1).clamp_min(1)).sqrt()
    new = torch.where(known, scores.clamp(mean - width, mean + width), scores)
    return new, (new - low) / (high - low), high > low


class _Live(Live[Supported]):
    whole_prompt = True

    def __init__(self, watch: Evidence) -> None:
        super().__init__(watch)
        self._image, self._layers, self._shifted = watch.image, set(watch.layers), watch.shifted

    def begin(self, now: Pass) -> None:
        check_one_token(
            now, "each word is weighed by what the word before it looked at in all layers: one word"
        )
        if now.prompt_rows:
            self._prompt(now)
        state = self._of(now.text)
        state.length, state.during = now.end, {}

    def _prompt(self, now: Pass) -> None:
        text, columns = now.text, now.text.image.shape[1]
        ahead = text.shown.flip(-1).cumsum(-1).flip(-1) > 0
        behind = pad(text.valid & ~ahead, (0, columns - ahead.shape[1]), value=True)
        behind, nothing = behind.to(text.device), torch.zeros(behind.shape, device=text.device)
        if now.begins:
            text.kept[self.watch] = _State(len(self._layers), behind, nothing, nothing, nothing)
        state = self._of(text)
        new = torch.arange(columns, device=text.device) >= now.start
        state.behind, state.end = behind, text.end
        state.scores = torch.where(new, 0.0, wide(state.scores, columns))
        state.raw = wide(state.raw, columns)

    def _of(self, text: Text) -> _State:
        return kept(text, self.watch, _State)

    @torch.no_grad()
    def value(self, at: AtLayer) -> Supported:
        now, image = at.now, at[self._image]
        assert now is not None and at.logits is not None
        text, on = now.text, at.logits.device
        state = self._of(text)
        weights = at.logits.detach().softmax(-1).nan_to_num(0.0)
        shown = torch.where(at.image[:, None, None], weights, 0.0)
        looked = (shown * image[:, None, None]).sum(-1)  # batch heads query
        heads = half(looked / (shown.sum(-1) + 1e-8))
        found = (looked * heads).sum(1) / heads.sum(1).clamp_min(1)  # batch query
        scores, last = self._before(state, at.layer)
        scores, last = scores.to(on), last.to(on)
        if now.prompt_rows:
            assert now.index is not None and now.last is not None
            index, end = now.index.to(on), now.last.to(on)[:, None]
            own = (index != end) & state.behind.to(on)[:, now.start + index]
            scores = scores.index_add(1, now.start + index, torch.where(own, found, 0.0))
            last = last + torch.where(index == end, found, 0.0).sum(-1)
        else:
            last = last + found[:, 0]
        columns = torch.arange(scores.shape[1], device=on)
        known = state.behind.to(on) & (columns <= text.position.to(on))
        words, ranged = torch.zeros_like(scores), torch.zeros_like(known[:, :1])
        if at.layer in self._layers:
            scores, words, ranged = clipped(scores, known)
        state.during[at.layer] = scores, last
        keys = at.image.shape[1]
        return Supported(
            heads,
            text.columns(words, keys),
            text.columns(known & ranged, keys),
            text.columns(state.behind.to(on), keys),
        )

    def _before(self, state: _State, layer: int) -> tuple[Tensor, Tensor]:
        """What the layers before this one left: read twice, a layer gives the same."""
        former = [number for number in state.during if number < layer]
        if former:
            return state.during[max(former)]
        return state.scores, torch.zeros_like(state.scores[:, 0])

    @torch.no_grad()
    def end(self, now: Pass, call: Any, output: Any) -> None:
        """The last row's evidence becomes that of the word it predicts, or its own."""
        text, state = now.text, self._of(now.text)
        if not state.during:
            return
        scores, last = (part.to(text.device) for part in state.during[max(state.during)])
        if self._shifted:
            place = torch.full_like(last, now.end, dtype=torch.long)
            if now.end == scores.shape[1]:
                text.widen(now.end + 1)
                scores = wide(scores, state.scores.shape[1])
        else:
            place = now.start + (torch.zeros_like(last).long() if now.last is None else now.last)
        here = torch.arange(scores.shape[1], device=scores.device) == place[:, None]
        state.scores = torch.where(here, last[:, None], scores)
        state.raw = torch.where(here, last[:, None], state.raw)
        if now.prompt_rows:
            state.prompted = state.scores
        state.during = {}
