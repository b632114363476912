"""VAR: move attention from sinks to the other image tokens.

Paper    Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models",
         ICLR 2025, arXiv 2503.03321.
Code     the paper's equations; the authors' code differs (it keeps p and moves 1−p, tests the sink
         share, skips two layers, edits the last one and finds sinks in the prefill only), and is
         not followed.
Edits    attention_weights of text rows, in all layers but the last.
Needs    sinks of every layer.
Departs  `sink_rule="received"` is ours, for models whose hidden states have no massive channels: a
         token is a sink where the prompt's text rows give it more than `received` times the uniform
         share, decided in the prefill.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, addcmul, where

from lvlm_fix.method import Method, Need, Seen, setting

__all__ = ["VAR"]


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

    needs: ClassVar[frozenset[Need]] = frozenset({"sinks"})
    paper: ClassVar[str] = "arXiv 2503.03321"

    def acts_in(self, layers: int) -> Collection[int]:
        return range(layers - 1)

    def sink_rule(self) -> tuple[str, float]:
        return self.rule, self.threshold if self.rule == "channels" else self.received

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], seen: Seen
    ) -> Float[Tensor, "batch heads query key"]:
        if seen.sinks is None or self.share == 0:
            return weights
        rows = weights.flatten(1, 2)
        on_image, on_sinks, on_others = (
            rows.bmm(seen.sinks.mT).unsqueeze(-1).unbind(2)
        )  # batch rows 1
        _, sinks, others = seen.sinks.unsqueeze(2).unbind(1)  # batch 1 key
        kept = (on_image >= max(self.image_share, 1e-12)) & (
            on_others >= max(self.ratio, 1e-12) * on_image
        )
        lost = addcmul(
            sinks, on_sinks / on_others, others, value=-1
        )  # of a key's weight, at share 1
        return where(kept, addcmul(rows, rows, lost, value=-self.share), rows).view_as(weights)
