"""`TowerLooks`: image tokens that the vision tower's CLS token looks at, local ones and summary."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.text import Pass, State, wide
from lvlm_fix.errors import InputError, ModelError

__all__ = ["TowerLooks", "local_and_summary"]

CLS = ("class_embedding", "cls_token")  # how towers name the CLS token's parameter
LAYERS = (0, -2)


def local_and_summary(
    first: Float[Tensor, " patches"], penultimate: Float[Tensor, " patches"], share: float = 0.25
) -> tuple[Bool[Tensor, " patches"], Bool[Tensor, " patches"]]:
    """Local tokens, the `share` with the most CLS attention in the first layer; summary tokens,
    outliers in the last but one (above Q3 + 1.5·IQR). A summary token is not local.
    """
    low, high = penultimate.quantile(0.25), penultimate.quantile(0.75)
    summary = penultimate > high + 1.5 * (high - low)
    local = torch.zeros_like(summary)
    local[first.topk(int(share * len(first))).indices] = True
    return local & ~summary, summary


@dataclass(frozen=True)
class TowerLooks(Watch[Float[Tensor, "batch 2 key"]]):
    """Which image tokens are local and which summary, 1 or 0 (`local_and_summary`).

    `at[TowerLooks()]`: batch 2 key. Needs a tower with a CLS token, and image tokens that are its
    patches one to one.
    """

    share: float = 0.25  # fraction of the image tokens that are local

    def live(self, host: Host) -> _Live:
        return _Live(self, host, self.share)


@dataclass
class _State(State):
    marks: Tensor | None = None  # batch 2 columns

    def widen(self, columns: int) -> None:
        if self.marks is not None:
            self.marks = wide(self.marks, columns)

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        if self.marks is not None:
            self.marks = self.marks.index_select(0, index.to(self.marks.device))


class _Live(Live[Float[Tensor, "batch 2 key"]]):
    whole_prompt = True

    def __init__(self, watch: TowerLooks, host: Host, share: float) -> None:
        super().__init__(watch)
        self._host, self._share, self._tower = host, share, Tower(host.model)
        self._now: Pass | None = None  # over a prompt whose photos were not taken in yet

    def attach(self, attached: Attached) -> None:
        self._tower.attach(attached, self._host.aside)

        def mark(*_: Any) -> None:
            now, self._now = self._now, None
            if now is not None and self._host.running():
                self._mark(now)

        attached.before(self._host.family.decoder, mark)

    def begin(self, now: Pass) -> None:
        kept(now.text, self.watch, _State)
        self._now = now if now.prompt_rows else None

    @torch.no_grad()
    def _mark(self, now: Pass) -> None:
        """Before the decoder of a prompt: what the tower looked at becomes marks of tokens."""
        text, state = now.text, kept(now.text, self.watch, _State)
        new = text.shown[:, now.start : now.start + now.prompt_rows]
        found = self._tower.patches(new)
        if found is None:
            if new.any():
                raise InputError(
                    "the photos did not pass the vision tower: give pixel values, not finished "
                    "features"
                )
            return
        marks = torch.zeros(text.batch, 2, text.image.shape[1], device=found.device)
        if state.marks is not None:
            marks[..., : now.start] = state.marks[..., : now.start]
        start = 0
        for row, here in enumerate(new):  # several photos of a sample are ranked together
            place, count = here.nonzero().flatten() + now.start, int(here.sum())
            if count:
                one = found[:, start : start + count]
                both = local_and_summary(one[0], one[1], self._share)
                marks[row, :, place.to(marks.device)] = torch.stack(both).to(marks.dtype)
                start += count
        state.marks = marks

    def value(self, at: AtLayer) -> Float[Tensor, "batch 2 key"]:
        assert at.now is not None
        marks = kept(at.now.text, self.watch, _State).marks
        assert marks is not None
        return at.now.text.columns(marks, at.image.shape[1]).to(at.image.device)


class Tower:
    """A model's vision tower, watched while a fix runs. Its attention is computed as ever; only the
    CLS row is redone.

    Raises `ModelError` where the model has no such tower, or the tower no CLS token.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.name = model, type(model).__name__
        tower = self.tower = model.get_encoder(modality="image")
        keys = [
            key
            for key in model.config.sub_configs
            if getattr(model.config, key, None) is tower.config
        ]
        if not keys:
            raise ModelError(
                f"{self.name}: the configuration of a vision tower was not found in the model's"
            )
        if not any(
            parameter.rpartition(".")[2] in CLS for parameter, _ in tower.named_parameters()
        ):
            raise ModelError(
                f"{self.name}: its vision tower {type(tower).__name__} has no CLS token, whose"
                " attention is needed here"
            )
        self.key = keys[0]
        self.layers = max((m for m in tower.modules() if isinstance(m, nn.ModuleList)), key=len)
        self.rows: dict[int, _Watched] = {}  # by layer

    def attach(self, attached: Attached, aside: Callable[[], bool]) -> None:
        """Watch two layers, by the registered attention; but not in passes `aside`."""
        watched = {}
        for layer in {number % len(self.layers) for number in LAYERS}:
            site = self.rows[layer] = _Watched(aside)
            for module in self.layers[layer].modules():  # whichever calls the attention interface
                watched[module] = site
        attached.attention(self.model, self.tower, self.key, watched)

    def patches(self, image: Bool[Tensor, "batch query"]) -> Float[Tensor, "2 tokens"] | None:
        """CLS attention on every image token of this pass, summed over heads: first and penultimate
        layer.

        The photos seen since the last call belong to the rows in order; where the rows are beams,
        they share photos. None where no photo passed. Raises `ModelError` unless every image token
        is one patch.
        """
        if not all(watched.rows for watched in self.rows.values()):
            return None
        found = torch.stack(
            [torch.cat(self.rows[number % len(self.layers)].rows).flatten() for number in LAYERS]
        )
        for watched in self.rows.values():
            watched.rows.clear()
        counts, patches = image.sum(-1).tolist(), found.shape[1]
        beams = max(1, sum(counts) // patches)  # rows that share their photos stand side by side
        if sum(counts) != beams * patches or any(
            counts[i] != counts[i - i % beams] for i in range(len(counts))
        ):
            raise ModelError(
                f"{self.name}: {patches} patches of its vision tower became {sum(counts)} image"
                " tokens; what the tower looks at can be told of a token only where each is one"
                " patch"
            )
        shared = found.split(counts[::beams], dim=1)
        return torch.cat([part for part in shared for _ in range(beams)], dim=1)


class _Watched:
    """Stands in the tower's attention modules: keeps the CLS row, changes nothing."""

    def __init__(self, aside: Callable[[], bool]) -> None:
        self.aside, self._local = aside, threading.local()

    @property
    def rows(self) -> list[Tensor]:
        """What passed in this thread, and in no pass yet: images patches, in order."""
        return self._local.__dict__.setdefault("rows", [])

    def attend(
        self, plain: Attend, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self.aside():
            return plain(module, *args, **kwargs)
        query, key = args[0].detach(), args[1].detach()  # images heads tokens dim
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        row = (query[:, :, :1].float() @ key.transpose(-1, -2).float()) * scaling
        self.rows.append(row.softmax(-1).sum(1)[:, 0, 1:])
        return plain(module, *args, **kwargs)
