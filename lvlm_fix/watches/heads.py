"""`PickedHeads`: heads picked once per prompt by a rule, or before any prompt by a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.text import Pass, State, Text
from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.heads.table import HeadTable

__all__ = ["HeadRule", "Picked", "PickedHeads", "picked_by_table", "upper_half"]


def upper_half(scores: Float[Tensor, "*batch heads"]) -> Bool[Tensor, "*batch heads"]:
    """Heads whose score exceeds the layer's median (arXiv 2412.13949, alg. 1); of two middle ones
    their mean.
    """
    return scores > scores.quantile(0.5, dim=-1, keepdim=True)


@dataclass(frozen=True)
class HeadRule(ABC):
    """How heads are scored at the end of a prompt, layer by layer, and which are picked."""

    paper: ClassVar[str] = ""
    of_answer: ClassVar[bool] = False  # scored over a finished answer, not at the prompt's end

    def watches(self) -> tuple[Watch[Any], ...]:
        """What `score` reads as `at[watch]`."""
        return ()

    @abstractmethod
    def score(self, at: AtLayer) -> Float[Tensor, "batch heads"]:
        """One score per head; `at.outputs` holds the last prompt row's head outputs."""

    def choose(self, scores: Float[Tensor, "batch heads"]) -> Bool[Tensor, "batch heads"]:
        """The heads to act on; fixed for the rest of the sample."""
        return upper_half(scores)


@dataclass
class Picked:
    """Scores of a layer's heads, and the heads to act on."""

    scores: Float[Tensor, "batch heads"]
    heads: Bool[Tensor, "batch heads"]


@dataclass(frozen=True)
class PickedHeads(Watch["Picked | None"]):
    """Heads by a `rule`, chosen once per prompt, or by a `table`, the same for every prompt.

    `at[PickedHeads(rule)]`: scores and heads of the layer; None before they are chosen. With a
    table and `top`, the best so many heads of the layers `acting`; without `top`, those above
    their layer's median.
    """

    rule: HeadRule | None = None
    table: HeadTable | None = None
    top: int = 0
    acting: tuple[int, ...] = ()

    def needs(self) -> tuple[Watch[Any], ...]:
        return () if self.rule is None else self.rule.watches()

    def live(self, host: Host) -> Live[Picked | None]:
        if self.rule is not None:
            return _Ruled(self, self.rule)
        if self.table is None:
            raise SettingError("heads are picked by a rule or by a table: give only one of them")
        heads = host.family.decoder.config.num_attention_heads
        return _Given(self, *picked_by_table(self, len(host.family.layers), heads))

    def scores_in(self, text: Text) -> dict[int, Float[Tensor, "batch heads"]]:
        """Scores of a text's prompt, by layer."""
        found = kept(text, self, _State).found
        return {layer: picked.scores for layer, picked in found.items()}


def picked_by_table(
    watch: PickedHeads, layers: int, heads: int
) -> tuple[Float[Tensor, "layers heads"], Bool[Tensor, "layers heads"]]:
    """Scores of all heads and the heads to act on. Raises `DataError` for a table of another
    shape.
    """
    table = watch.table
    if table is None or table.mean.shape != (layers, heads):
        found = "no" if table is None else " × ".join(map(str, table.mean.shape))
        raise DataError(
            f"the head table ({table}) has {found} layers × heads, this model has {layers} × "
            f"{heads}; make one for it with `heads score`"
        )
    scores = torch.tensor(table.mean, dtype=torch.float32)
    if not watch.top:
        return scores, upper_half(scores)
    acting = torch.zeros(layers, 1, dtype=torch.bool)
    acting[list(watch.acting)] = True
    hidden = ~acting | scores.isnan()
    order = scores.masked_fill(hidden, -torch.inf).flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros(layers * heads, dtype=torch.bool)
    chosen[order[: watch.top]] = True
    return scores, chosen.reshape(layers, heads) & ~hidden


@dataclass
class _State(State):
    found: dict[int, Picked] = field(default_factory=dict)  # by layer

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.found = {
            layer: Picked(*(part.index_select(0, index.to(part.device)) for part in parts))
            for layer, parts in ((n, (p.scores, p.heads)) for n, p in self.found.items())
        }

    def cut(self, columns: int, *, prompt: bool) -> None:
        if prompt:
            self.found = {}


class _Picking(Live["Picked | None"]):
    """What both ways have in common."""

    def value(self, at: AtLayer) -> Picked | None:
        assert at.now is not None
        found, device = kept(at.now.text, self.watch, _State).found, at.image.device
        picked = found.get(at.layer)
        if picked is not None and picked.heads.device != device:  # they follow their layer
            picked = found[at.layer] = Picked(picked.scores.to(device), picked.heads.to(device))
        return picked

    def told(self, text: Text) -> dict[str, dict[int, list[int]]]:
        found = kept(text, self.watch, _State).found
        return {"heads": {layer: p.heads.sum(-1).tolist() for layer, p in found.items()}}


class _Ruled(_Picking):
    whole_prompt = True

    def __init__(self, watch: PickedHeads, rule: HeadRule) -> None:
        super().__init__(watch)
        self._rule = rule

    def leave(self, at: AtLayer, output: Float[Tensor, "batch query heads dim"]) -> None:
        now = at.now
        assert now is not None
        state = kept(now.text, self.watch, _State)
        if at.layer in state.found or now.last is None:
            return
        last = now.last.to(output.device)
        with torch.no_grad():
            at.outputs = output[torch.arange(len(last), device=last.device), last]
            scores = self._rule.score(at)
            shown = now.text.with_image.to(scores.device)[:, None]
            state.found[at.layer] = Picked(scores, self._rule.choose(scores) & shown)


class _Given(_Picking):
    def __init__(
        self,
        watch: PickedHeads,
        scores: Float[Tensor, "layers heads"],
        heads: Bool[Tensor, "layers heads"],
    ) -> None:
        super().__init__(watch)
        self._scores, self._heads = scores, heads

    def begin(self, now: Pass) -> None:
        kept(now.text, self.watch, _State)

    def enter(self, layer: int, now: Pass) -> None:
        state = kept(now.text, self.watch, _State)
        if now.prompt_rows:
            text = now.text
            scores = self._scores[layer].to(text.device).expand(text.batch, -1)
            heads = text.with_image[:, None] & self._heads[layer].to(text.device)
            state.found[layer] = Picked(scores, heads)
