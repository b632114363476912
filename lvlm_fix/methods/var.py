"""VAR: move attention from sinks to the other image tokens.

Paper    Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models",
         ICLR 2025, arXiv 2503.03321.
Code     the paper's equations; the authors' code differs (it keeps p and moves 1−p, tests the sink
         share, skips two layers, edits the last one and finds sinks in the prefill only), and is
         not followed.
Edits    attention_weights of text rows, in all layers but the last.
Needs    sinks of every layer.
Departs  `sink_rule="received"` is ours, for models whose hidden states have no massive channels: a
         token is a sink if the prompt's text rows give it more than `received` times the uniform
         share. This is decided in the prefill.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor, addcmul, threshold_, where

from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.watches import ChannelSinks, ReceivedSinks

__all__ = ["VAR"]

LEAST = 1e-12  # attention that counts as none


@dataclass(frozen=True)
class VAR(Method):
    """Visual Attention Redistribution in image-centric heads, decided for every layer, head and
    row.

    With sinks S, image keys V and a head's row A: rows with `Σ_V A ≥ image_share` and `Σ_{V∖S} A /
    Σ_V A ≥ ratio` lose the share p of every sink; the freed mass goes to V∖S in proportion to its
    weights.
    """

    share: float = setting(
        0.6, "share p of a sink's weight that is moved; 0 changes nothing", "paper", low=0, high=1
    )
    ratio: float = setting(
        0.5,
        "least non-sink part ρ of the image attention",
        "paper, hallucination tasks",
        low=0,
        high=1,
    )
    image_share: float = setting(
        0.2, "least attention on the image, fraction 0–1", "paper", low=0, high=1
    )
    threshold: float = setting(20.0, "sink where max|x_d|/RMS(x) reaches τ", "paper", low=0)
    rule: str = setting(
        "channels", "how sinks are found", "paper: channels", options=("channels", "received")
    )
    received: float = setting(
        5.0, "times the uniform share, for rule=received", "ours, after ACT's α", low=0
    )

    paper: ClassVar[str] = "arXiv 2503.03321"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(layers - 1)

    @cached_property
    def sinks(self) -> ChannelSinks | ReceivedSinks:
        """The watch that finds the sinks."""
        by_channels = self.rule == "channels"
        return ChannelSinks(self.threshold) if by_channels else ReceivedSinks(self.received)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.sinks,)

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        found = at[self.sinks]
        if found is None or self.share == 0:
            return weights
        rows = weights.flatten(1, 2)
        sums = rows.bmm(found.mT)  # batch rows 3: on the image, on sinks, on others
        # what is on the image counts as infinite where it is less than `image_share`
        threshold_(sums[..., :1], below(self.image_share), math.inf)
        parts = sums[..., :2] / sums[..., 2:]
        kept = parts[..., :1] <= 1 / max(self.ratio, LEAST)
        # of a key's weight, at share 1
        lost = addcmul(found[:, 1:2], parts[..., 1:], found[:, 2:], value=-1)
        return where(kept, addcmul(rows, rows, lost, value=-self.share), rows).view_as(weights)


@cache
def below(least: float) -> float:
    """The largest float32 below `least`, which a larger value must exceed to reach it."""
    return float(np.nextafter(np.float32(max(least, LEAST)), np.float32(-1)))
