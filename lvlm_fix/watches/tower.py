"""`ClsRows`: what the vision tower's CLS token looks at, for every image token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.core.at import Host, Live, Watch, kept
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.text import Pass, State, Text, wide
from lvlm_fix.errors import InputError, ModelError

__all__ = ["ClsRows", "Looked", "Tower", "looked"]

CLS = ("class_embedding", "cls_token")  # how towers name the CLS token's parameter
LAYERS = (0, -2)


@dataclass(frozen=True)
class ClsRows(Watch["Looked"]):
    """The CLS token's attention on every image token; other watches read it by `looked`.

    Needs a tower with a CLS token, and image tokens that are its patches one to one.
    """

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


@dataclass
class Looked(State):
    """What is known of the image tokens of one text."""

    # first layer; the last but one; the last but one as one head: batch 3 columns
    rows: Tensor | None = None
    photo: int = 0  # tokens of one photo

    def widen(self, columns: int) -> None:
        if self.rows is not None:
            self.rows = wide(self.rows, columns)

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        if self.rows is not None:
            self.rows = self.rows.index_select(0, index.to(self.rows.device))


def looked(text: Text) -> Looked:
    """What `ClsRows` knows of a text."""
    return kept(text, ClsRows(), Looked)


class _Live(Live[Looked]):
    whole_prompt = True

    def __init__(self, watch: ClsRows, host: Host) -> None:
        super().__init__(watch)
        self._host, self._tower = host, Tower(host.model)
        self._now: Pass | None = None  # over a prompt whose photos were not taken in yet

    def attach(self, attached: Attached) -> None:
        self._tower.attach(attached, self._host.aside)

        def take(*_: Any) -> None:
            now, self._now = self._now, None
            if now is not None and self._host.running():
                self._take(now)

        attached.before(self._host.family.decoder, take)

    def begin(self, now: Pass) -> None:
        looked(now.text)
        self._now = now if now.prompt_rows else None

    @torch.no_grad()
    def _take(self, now: Pass) -> None:
        """Before the decoder of a prompt: what the tower looked at becomes the tokens'."""
        text, state = now.text, looked(now.text)
        new = text.shown[:, now.start : now.start + now.prompt_rows]
        found = self._tower.patches(new)
        if found is None:
            if new.any():
                raise InputError(
                    "the photos did not pass the vision tower: give pixel values, not finished "
                    "features"
                )
            return
        rows = torch.zeros(text.batch, 3, text.image.shape[1], device=found.device)
        if state.rows is not None:
            rows[..., : now.start] = state.rows[..., : now.start]
        here = torch.zeros_like(rows[:, 0], dtype=torch.bool)
        here[:, now.start : now.start + now.prompt_rows] = new.to(here.device)
        rows.transpose(1, 2)[here] = found.T
        state.rows, state.photo = rows, self._tower.photo


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
        self.photo = 0  # patches of one photo

    def attach(self, attached: Attached, aside: Callable[[], bool]) -> None:
        """Watch two layers, by the registered attention; but not in passes `aside`."""
        watched = {}
        for layer in {number % len(self.layers) for number in LAYERS}:
            site = self.rows[layer] = _Watched(aside)
            for module in self.layers[layer].modules():  # whichever calls the attention interface
                watched[module] = site
        attached.attention(self.model, self.tower, self.key, watched)

    def patches(self, image: Bool[Tensor, "batch query"]) -> Float[Tensor, "3 tokens"] | None:
        """CLS attention on every image token of this pass: first and penultimate layer, summed over
        heads, and the penultimate as one head of the tower's whole width.

        The photos seen since the last call belong to the rows in order; where the rows are beams,
        they share photos. None where no photo passed. Raises `ModelError` unless every image token
        is one patch.
        """
        if not all(watched.rows for watched in self.rows.values()):
            return None
        first, last = (torch.cat(self.rows[number % len(self.layers)].rows, 1) for number in LAYERS)
        self.photo = first.shape[2]
        found = torch.stack((first[0], last[0], last[1])).flatten(1)
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
        """What passed in this thread, and in no pass yet: 2 images patches, in order; the heads'
        sum, and all heads as one.
        """
        return self._local.__dict__.setdefault("rows", [])

    def attend(
        self, plain: Attend, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self.aside():
            return plain(module, *args, **kwargs)
        query, key = args[0].detach(), args[1].detach()  # images heads tokens dim
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        row = (query[:, :, :1].float() @ key.transpose(-1, -2).float()) * scaling
        whole = row.sum(1) / row.shape[1] ** 0.5  # as one head of all their widths
        self.rows.append(torch.stack((row.softmax(-1).sum(1), whole.softmax(-1)))[:, :, 0, 1:])
        return plain(module, *args, **kwargs)
