"""Attention sinks: by channels of the hidden state that grow massive on them, or by the attention
that they receive (arXiv 2503.03321).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Rows, Watch, kept
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.text import Pass, State, Text, wide
from lvlm_fix.watches.sink_channels import discover_channels, published_channels

__all__ = [
    "ChannelSinks",
    "ReceivedSinks",
    "is_sink",
    "sink_forms",
    "sink_masks",
]


def sink_forms(
    channels: Int[Tensor, " channels"], width: int, threshold: float
) -> Float[Tensor, "width channels"]:
    """What a state's squares are multiplied by, so that a sink is where a result is >= 0: of each
    channel d, `x_d² − τ²·mean(x²)`.
    """
    forms = torch.full((width, len(channels)), -(threshold**2) / width, device=channels.device)
    forms[channels, torch.arange(len(channels), device=channels.device)] += 1.0
    return forms


def is_sink(
    hidden: Float[Tensor, "batch query width"], forms: Float[Tensor, "width channels"]
) -> Float[Tensor, "batch query"]:
    """Not below 0 where `max_{d ∈ channels} |x_d| / RMS(x) ≥ τ`, for what enters a layer."""
    found = hidden.float().square() @ forms
    return found.squeeze(-1) if found.shape[-1] == 1 else found.amax(-1)


def sink_masks(
    image: Bool[Tensor, "batch key"], sinks: Shaped[Tensor, "batch key"]
) -> Float[Tensor, "batch 3 key"]:
    """Of every key, 1 or 0: is it an image token, is it a sink, is it an image token and none."""
    inside, sinks = image.float(), sinks.float()
    return torch.stack((inside, sinks, inside * (1 - sinks)), dim=1)


@dataclass
class Sinks(State):
    """Masks of one text, by layer: batch 3 columns (`sink_masks`)."""

    masks: dict[int, Tensor] = field(default_factory=dict)

    def widen(self, columns: int) -> None:
        self.masks = {layer: wide(mask, columns) for layer, mask in self.masks.items()}

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.masks = {
            layer: mask.index_select(0, index.to(mask.device)) for layer, mask in self.masks.items()
        }


class _Sinks(Live["Float[Tensor, 'batch 3 key'] | None"]):
    """What both rules have in common."""

    def value(self, at: AtLayer) -> Float[Tensor, "batch 3 key"] | None:
        assert at.now is not None
        mask = kept(at.now.text, self.watch, Sinks).masks.get(at.layer)
        if mask is None:
            return None
        return at.now.text.columns(mask, at.image.shape[1]).to(at.image.device)

    def told(self, text: Text) -> dict[str, dict[int, list[int]]]:
        masks = kept(text, self.watch, Sinks).masks
        return {"sinks": {n: mask[:, 1].sum(-1).int().tolist() for n, mask in masks.items()}}


@dataclass(frozen=True)
class ChannelSinks(Watch["Float[Tensor, 'batch 3 key'] | None"]):
    """Sinks by massive channels: the published ones, or those of this model's first tokens.

    `at[ChannelSinks()]`: batch 3 key (`sink_masks`), per layer; None in a model without such
    channels.
    """

    threshold: float = 20.0  # τ on |x_d| / RMS(x), unitless

    def live(self, host: Host) -> _Channels:
        return _Channels(self, host)


class _Channels(_Sinks):
    always = True

    def __init__(self, watch: ChannelSinks, host: Host) -> None:
        super().__init__(watch)
        self._host, self._threshold = host, watch.threshold
        self._channels: tuple[int, ...] | None = None  # None before the first prompt
        self._forms: dict[torch.device, Tensor] = {}  # `sink_forms`
        self._entering: dict[int, Tensor] = {}  # of this pass, by layer, until its attention runs

    def attach(self, attached: Attached) -> None:
        self._host.entering(attached, sorted(self._host.layers), self._keep)

    def _keep(self, layer: int, hidden: Tensor) -> None:
        self._entering[layer] = hidden

    def begin(self, now: Pass) -> None:
        self._entering.clear()
        if self._channels is None:
            text = now.text
            first = text.prompt_ids[torch.arange(text.batch), text.valid.int().argmax(-1)][:, None]
            with self._host.unedited():
                found = published_channels(self._host.family.decoder.config) or discover_channels(
                    self._host.family, first.to(text.device), self._threshold
                )
            self._channels = found
            self._entering.clear()

    def _formed(self, hidden: Tensor) -> Float[Tensor, "width channels"]:
        if hidden.device not in self._forms:
            channels = torch.tensor(self._channels, device=hidden.device)
            self._forms[hidden.device] = sink_forms(channels, hidden.shape[-1], self._threshold)
        return self._forms[hidden.device]

    def enter(self, layer: int, now: Pass) -> None:
        hidden = self._entering.pop(layer, None)
        if hidden is None or not self._channels:
            return
        text, state = now.text, kept(now.text, self.watch, Sinks)
        with torch.no_grad():
            score = is_sink(hidden.detach(), self._formed(hidden))
        if not now.prompt_rows:
            self._grow(state.masks[layer], score, now)
            return
        new = score >= 0
        columns = now.prompt_rows
        valid = text.valid[:, now.start : now.start + columns].to(new.device)
        new = torch.cat((new[:, :columns] & valid, new[:, columns:]), 1)
        before = state.masks.get(layer)
        if before is None:
            before = torch.zeros(text.batch, 3, 0, device=new.device)
        sinks = torch.cat((wide(before[:, 1, : now.start], now.start), new.float()), 1)
        width = text.image.shape[1]
        state.masks[layer] = sink_masks(text.image.to(sinks.device), wide(sinks, width))

    def _grow(
        self, mask: Float[Tensor, "batch 3 columns"], score: Float[Tensor, "batch query"], now: Pass
    ) -> None:
        """Mark columns of text, in place."""
        if not now.text.static:
            torch.ge(score, 0, out=mask[:, 1, now.start : now.end])
            return
        place = now.text.position.to(mask.device)
        mask.select(1, 1).index_copy_(1, place, (score >= 0).to(mask.dtype))


@dataclass(frozen=True)
class ReceivedSinks(Watch["Float[Tensor, 'batch 3 key'] | None"]):
    """Sinks by received attention: keys that the prompt's text rows give more than `factor` times
    the uniform share, on average over rows and heads (ours).

    `at[ReceivedSinks(5.0)]`: batch 3 key (`sink_masks`), per layer.
    """

    factor: float = 5.0

    def live(self, host: Host) -> _Received:
        return _Received(self, self.factor)


class _Received(_Sinks):
    wants_rows = True
    whole_prompt = True

    def __init__(self, watch: ReceivedSinks, factor: float) -> None:
        super().__init__(watch)
        self._factor = factor

    def look(self, at: AtLayer, rows: Rows) -> None:
        now = at.now
        assert now is not None and now.index is not None
        text, device = now.text, rows.weights.device
        own = (now.active | now.final).to(device) & (now.index.to(device) < now.prompt_rows)
        own = own[:, None, :, None]
        mean = (rows.weights * own).sum((1, 2)) / (
            own.sum((1, 2)) * rows.weights.shape[1]
        ).clamp_min(1)
        count = text.valid.sum(-1, keepdim=True).to(device)
        found = sink_masks(at.image, mean * count > self._factor)
        kept(text, self.watch, Sinks).masks[at.layer] = wide(found, text.image.shape[1])
