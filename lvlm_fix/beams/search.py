"""`Search`: beams whose candidates are passed before one is taken, and that can go back.

What the candidates are worth, and where to go back to, a `Judge` says: a new one for each sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedModel
from transformers.generation import GenerateBeamDecoderOnlyOutput

from lvlm_fix.beams.running import Beams
from lvlm_fix.core.caches import text_in
from lvlm_fix.core.call import cache_in, can_go_back, own_rows, rows_of
from lvlm_fix.errors import InputError
from lvlm_fix.private import go_on, special_tokens, start

__all__ = ["BARRED", "Judge", "Search"]

BARRED = -999.0  # the logit of a token that is not to be taken


@runtime_checkable
class Judge(Protocol):
    """What a method says of one sample's candidates."""

    def grown(self, known: Tensor, cache: Cache) -> Tensor:
        """What is known of each row's text, with the token that was passed last: row column."""
        ...

    def worth(
        self, logits: Float[Tensor, "beam candidate"], known: Float[Tensor, "beam candidate column"]
    ) -> Float[Tensor, "beam candidate"]:
        """The candidates' logits, less a penalty. Called once per token."""
        ...

    def back(self) -> int | None:
        """Behind how many tokens the search goes on; None: where it is."""
        ...

    def barred(self, place: int, came: Int[Tensor, " beam"]) -> Int[Tensor, " barred"]:
        """Told that it went back there, where `came` was taken: all that was."""
        ...


@dataclass
class _State:
    """Beams after so many tokens; what a search goes back to."""

    beams: Beams
    logits: Float[Tensor, "_ vocabulary"]  # of the next token; none in what is kept to go back to
    given: dict[str, Any]  # what the next pass is given
    known: Float[Tensor, "beam column"]  # the judge's
    came: Int[Tensor, " beam"]  # beam × vocabulary + token that led here


@dataclass
class _Looked:
    """The pass over the candidates, a row for each of every beam."""

    tokens: Int[Tensor, "beam candidate"]
    logits: Float[Tensor, "row vocabulary"]
    given: dict[str, Any]
    known: Float[Tensor, "row column"]


@dataclass
class Search:
    """The texts of one call of `generate`."""

    judge: Callable[[], Judge]
    candidates: int  # of each beam
    model: PreTrainedModel
    processors: Any
    stop: Any
    config: GenerationConfig

    def run(self, ids: Tensor, given: dict[str, Any], alone: int) -> Any:
        """One sample after the other, behind one pass over all prompts; those without image by
        `alone` beams, as if nothing acted.
        """
        count, wanted = self.config.num_beams or 1, self.config.num_return_sequences or 1
        logits, grown = start(self.model, ids, self.config, given)
        if not can_go_back(cache_in(grown)):
            raise InputError(
                "this decoding goes back in a text, but there is no cache that can be cut: use a "
                "dynamic one"
            )
        rows: list[list[int]] = []
        scores: list[float] = []
        for first in range(0, len(ids), count):
            mine = slice(first, first + count)
            one = len(ids) == count
            own = grown if one else own_rows(grown, torch.arange(first, first + count))
            found = self._drawn(ids[mine], logits[mine], own, alone).best(wanted)
            rows, scores = rows + found[0], scores + found[1]
        width, fill = max(map(len, rows)), special_tokens(self.config)[0]
        new = torch.tensor([row + [fill] * (width - len(row)) for row in rows]).to(ids)
        out = torch.cat((ids[::count].repeat_interleave(wanted, 0), new), 1)
        if not self.config.return_dict_in_generate:
            return out
        named: Any = {"sequences": out, "sequences_scores": torch.tensor(scores)}
        return GenerateBeamDecoderOnlyOutput(**named)

    def _drawn(self, ids: Tensor, logits: Tensor, given: dict[str, Any], alone: int) -> Beams:
        """The beams of one sample, when they have ended."""
        judge, cache = self.judge(), _cache(given)
        text = text_in(cache)
        shown = text is not None and text.any_with_image
        if not shown:
            few = torch.arange(alone, device=ids.device)
            cache.batch_select_indices(few)
            ids, logits, given = ids[:alone], logits[:alone], rows_of(given, few)
        known = logits.new_zeros(len(ids), 0, dtype=torch.float64)
        state = _State(Beams.begin(ids, self.config), logits, given, known, ids[:, -1])
        states: list[_State] = []
        while state.beams.going:
            looked, scores = None, state.logits
            if shown:
                states.append(replace(state, logits=state.logits[:0]))
                looked, scores = self._look(state, judge)
                if (place := judge.back()) is not None:
                    barred = judge.barred(place, states[place + 1].came)
                    state, looked = self._returned(states, place), None
                    scores = _without(state.logits, barred)
            state = self._step(state, scores, looked, judge)
        cache.batch_select_indices(torch.arange(len(ids), device=ids.device))  # as many as came
        return state.beams

    def _look(self, state: _State, judge: Judge) -> tuple[_Looked, Tensor]:
        """Pass all candidates; what they are worth, all other tokens far below."""
        best, tokens = state.logits.topk(min(self.candidates, state.logits.shape[-1]))
        each = best.shape[1]
        rows = torch.arange(len(best), device=best.device).repeat_interleave(each)
        cache = _cache(state.given)
        cache.batch_repeat_interleave(each)
        ids = torch.cat((state.beams.ids[rows], tokens.view(-1, 1)), 1)
        logits, given = go_on(self.model, ids, rows_of(state.given, rows))
        known = judge.grown(state.known[rows], cache)
        worth = judge.worth(best, known.view(*best.shape, -1))
        scores = torch.full_like(state.logits, BARRED).scatter(-1, tokens, worth)
        return _Looked(tokens, logits, given, known), scores

    def _step(self, state: _State, scores: Tensor, looked: _Looked | None, judge: Judge) -> _State:
        """Choose the next token of all beams, and pass it where that was not done."""
        beams, cache = copy.copy(state.beams), _cache(state.given)
        scores = self.processors(beams.ids, scores.log_softmax(-1))
        parents = beams.step(self.model, scores, self.stop, self.config)
        tokens = beams.ids[:, -1]
        came = parents * scores.shape[-1] + tokens
        if not beams.going:
            return replace(state, beams=beams, came=came)
        rows = parents
        if looked is not None:
            same = looked.tokens[parents] == tokens[:, None]
            rows = parents * same.shape[1] + same.long().argmax(-1)
            if bool(same.any(-1).all()):
                cache.batch_select_indices(rows)
                given = rows_of(looked.given, rows)
                return _State(beams, looked.logits[rows], given, looked.known[rows], came)
            cache.crop(-1)
        cache.batch_select_indices(rows)
        logits, given = go_on(self.model, beams.ids, rows_of(state.given, parents))
        return _State(beams, logits, given, judge.grown(state.known[parents], cache), came)

    def _returned(self, states: list[_State], place: int) -> _State:
        """The state of that many tokens, its text passed anew; what came behind is forgotten."""
        beams, cache = states[place].beams, _cache(states[0].given)
        cache.crop(-len(states))  # the text and a candidate
        cache.batch_select_indices(torch.arange(len(beams.ids), device=beams.ids.device))
        logits, given = go_on(self.model, beams.ids, states[place - 1].given, place)
        del states[place + 1 :]
        return replace(states[place], logits=logits, given=given)


def _without(logits: Tensor, barred: Tensor) -> Tensor:
    """The logits, those of some tokens of some beams as low as the lowest that is possible."""
    least = logits.masked_fill(logits == -torch.inf, torch.inf).amin(-1)
    rows = barred // logits.shape[-1]
    return logits.flatten().index_copy(0, barred, least[rows]).view_as(logits)


def _cache(given: dict[str, Any]) -> Cache:
    cache = cache_in(given)
    assert cache is not None
    return cache
