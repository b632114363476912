"""What contrast methods share: the contrast of two branches' next-token logits, the distance
between them, the tokens that stay plausible, and the method that is only a contrast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvlm_fix.method import AtToken, Method, Watch, setting

__all__ = [
    "Contrast",
    "added_or_contrasted",
    "contrasted",
    "divergence",
    "plausible",
    "refined",
]


def plausible(
    logits: Float[Tensor, "batch vocabulary"], share: float
) -> Bool[Tensor, "batch vocabulary"]:
    """Tokens with at least `share` (0 to 1; 0: all) of the likeliest one's probability: `l ≥ log
    share + max l`.
    """
    least = math.log(share) if share else -math.inf
    return logits >= logits.amax(-1, keepdim=True) + least


def contrasted(
    logits: Float[Tensor, "batch vocabulary"],
    other: Float[Tensor, "batch vocabulary"],
    strength: float,
    share: float,
) -> Float[Tensor, "batch vocabulary"]:
    """`(1+α)·l − α·l'`; tokens that are not plausible in `logits` get −inf."""
    return ((1 + strength) * logits - strength * other).masked_fill(
        ~plausible(logits, share), -math.inf
    )


def added_or_contrasted(
    logits: Float[Tensor, "batch vocabulary"],
    other: Float[Tensor, "batch vocabulary"],
    agree: Bool[Tensor, "batch one"],
    agreeing: float,
    strength: float,
    share: float,
) -> Float[Tensor, "batch vocabulary"]:
    """`l + α₁·l'` where both agree, otherwise `(1+α₂)·l − α₂·l'`; tokens that are not plausible in
    `logits` get −inf.
    """
    mixed = torch.where(
        agree, logits + agreeing * other, (1 + strength) * logits - strength * other
    )
    return mixed.masked_fill(~plausible(logits, share), -math.inf)


def refined(
    logits: Float[Tensor, "batch vocabulary"],
    other: Float[Tensor, "batch vocabulary"],
    strength: float,
    share: float,
) -> Float[Tensor, "batch vocabulary"]:
    """PAI's refinement: `γ·(s − u) + u` of log-softmax s with and u without image; implausible
    tokens get −inf.
    """
    with_image, without = logits.log_softmax(-1), other.log_softmax(-1)
    mixed = strength * (with_image - without) + without
    return mixed.masked_fill(~plausible(with_image, share), -math.inf)


def divergence(
    one: Float[Tensor, "*rest vocabulary"], other: Float[Tensor, "*rest vocabulary"]
) -> Float[Tensor, "*rest"]:
    """Jensen-Shannon divergence of two distributions given as log-probabilities, in nats."""
    middle = torch.logaddexp(one, other) - torch.log(torch.tensor(2.0))
    return 0.5 * ((one.exp() * (one - middle)).sum(-1) + (other.exp() * (other - middle)).sum(-1))


@dataclass(frozen=True)
class Contrast(Method):
    """Base of the methods that contrast the next token with one branch: `(1+α)·l − α·l'` over the
    tokens with `l ≥ log β + max l`.
    """

    strength: float = setting(1.0, "contrast α, unitless; 0 does not contrast", "paper", low=0)
    plausible: float = setting(
        0.1, "least share β of the likeliest token's probability, 0 to 1", "paper", low=0, high=1
    )

    def branch(self) -> Watch[Any]:
        """The second branch, whose logits are l'."""
        raise NotImplementedError

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.branch(),) if self.strength else ()

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        other = at[self.branch()] if self.strength else logits
        return contrasted(logits.float(), other.float(), self.strength, self.plausible)
