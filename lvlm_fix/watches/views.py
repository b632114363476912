"""What a second branch sees in place of the prompt: pure edits of the inputs of one
forward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.core.at import Host, Watch
from lvlm_fix.core.text import Pass

__all__ = ["Inputs", "NoImage", "View"]


@dataclass(frozen=True)
class Inputs:
    """The inputs of one pass of the model, apart from its cache."""

    ids: Int[Tensor, "batch query"]
    valid: Bool[Tensor, "batch query"]  # not padding
    image: Bool[Tensor, "batch query"]
    positions: Int[Tensor, "*axes batch query"] | None  # as the model was given them
    more: dict[str, Any]  # pixels, their sizes, token types, logits_to_keep
    first: bool  # the pass begins a prompt, rather than going on from the cache
    now: Pass  # the main pass
    pixels: dict[str, Any] = field(
        default_factory=dict
    )  # what image features came from, where `more` has only those
    # so many equal rows, one behind the other, were made of each row that the pixels belong to
    beams: int = 1
    copies: int = 1  # so many rows of the main pass does each of these rows stand for
    # whose embedding stands in each column; None: its own
    order: Int[Tensor, "batch query"] | None = None


@dataclass(frozen=True)
class View(ABC):
    """What the second branch sees. Two methods with equal views share one branch."""

    from_pixels: ClassVar[bool] = (
        False  # it needs the pixels, where `generate` has made features of them already
    )
    counted: ClassVar[bool] = (
        False  # positions are counted anew: 0, 1, 2, ... over what is not padding
    )
    blind: ClassVar[bool] = False  # there is no image in it: a language model inside serves alone

    def needs(self) -> tuple[Watch[Any], ...]:
        """Watches that it reads."""
        return ()

    def ready(self, model: PreTrainedModel) -> View:
        """The view for this model. Raises `ModelError` where the model misses what it needs."""
        return self

    @abstractmethod
    def of(self, inputs: Inputs) -> Inputs:
        """The branch's inputs of the same pass."""

    def seeing(self, inputs: Inputs, host: Host) -> AbstractContextManager[None]:
        """In which the branch's pass over such inputs runs."""
        return nullcontext()


@dataclass(frozen=True)
class NoImage(View):
    """The image tokens are deleted and later positions move up; rows are padded on the left."""

    counted: ClassVar[bool] = True
    blind: ClassVar[bool] = True

    def of(self, inputs: Inputs) -> Inputs:
        keep = inputs.valid & ~inputs.image
        width = int(keep.sum(-1).max()) if inputs.first else inputs.ids.shape[1]
        order = keep.long().argsort(dim=-1, stable=True)[
            :, -width:
        ]  # what is kept moves to the right, in order
        more = {name: value for name, value in inputs.more.items() if name == "logits_to_keep"}
        kept = inputs.ids.gather(1, order), keep.gather(1, order)
        return replace(
            inputs,
            ids=kept[0],
            valid=kept[1],
            image=torch.zeros_like(kept[1]),
            positions=None,
            more=more,
        )
