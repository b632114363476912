"""What a second branch sees in place of the prompt: pure edits of the inputs of one
forward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from lvlm_fix.core.at import Host, Watch
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import InputError, ModelError

__all__ = ["DisturbedPrompt", "Inputs", "NoImage", "NoisedImage", "View", "diffused"]


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


@dataclass(frozen=True)
class NoisedImage(View):
    """Diffusion noise on the pixels. A seed gives every photo of a size the same noise, whatever
    batch it is in.
    """

    step: int  # of 1000
    seed: int
    from_pixels: ClassVar[bool] = True

    def of(self, inputs: Inputs) -> Inputs:
        more = inputs.more | inputs.pixels
        found = {
            name: value for name, value in more.items() if name in PIXELS and value is not None
        }
        if inputs.first and not found:
            raise InputError(
                "noise needs the pixels of the prompt's image: pass pixel_values, not features"
                " of it"
            )
        if not found:
            return inputs
        n = inputs.beams
        if n > 1 and not torch.equal(inputs.ids[::n].repeat_interleave(n, dim=0), inputs.ids):
            raise InputError(
                "noise on the image follows beams through the cache alone: leave use_cache on"
            )
        more = {
            name: value[::n] if name.endswith("token_type_ids") and value is not None else value
            for name, value in more.items()
            if name != "mm_encoder_outputs"
        }
        more |= {name: self._noised(value, more.get(PIXELS[name])) for name, value in found.items()}
        positions = None if inputs.positions is None else inputs.positions[..., ::n, :]
        ids, valid, image = inputs.ids[::n], inputs.valid[::n], inputs.image[::n]
        return replace(
            inputs, ids=ids, valid=valid, image=image, positions=positions, more=more, copies=n
        )

    def _noised(self, pixels: Tensor, grid: Tensor | None) -> Tensor:
        """Photo by photo: along the first axis, or as the grid of flattened patches has it."""
        parts = pixels.split(1 if grid is None else grid.prod(-1).tolist())
        seeds = [torch.Generator().manual_seed(self.seed) for _ in parts]
        noise = [
            torch.randn(part.shape, generator=seed) for part, seed in zip(parts, seeds, strict=True)
        ]
        return diffused(pixels, torch.cat(noise).to(pixels.device), self.step)


PIXELS = {
    "pixel_values": "image_grid_thw",
    "pixel_values_videos": "video_grid_thw",
}  # and where patches are counted


def diffused(
    pixels: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], step: int
) -> Float[Tensor, "*shape"]:
    """`√ā·x + √(1−ā)·noise` after `step` of 1000 diffusion steps; their β rises from 1e-5 to 5e-3
    (VCD's code).
    """
    betas = torch.linspace(-6, 6, 1000).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    kept = float((1 - betas).cumprod(0)[step])
    return (kept**0.5 * pixels.float() + (1 - kept) ** 0.5 * noise).to(pixels.dtype)


@dataclass(frozen=True)
class DisturbedPrompt(View):
    """Words put between the last image of the prompt and the instruction; `tokens` are used in
    their place if given.
    """

    words: str
    tokens: tuple[int, ...] | None = None
    closing: frozenset[int] = (
        frozenset()
    )  # special tokens that may close an image; the words come behind them

    def ready(self, model: PreTrainedModel) -> View:
        settings = model.config.to_dict().items()
        closing = {
            value
            for key, value in settings
            if isinstance(value, int) and key.endswith(("_id", "_index"))
        }
        if self.tokens is not None:
            return replace(self, closing=frozenset(closing))
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"there is no tokenizer at {model.name_or_path!r} to read {self.words!r} with; give"
                " its token ids"
            ) from error
        tokens = tuple(tokenizer.encode(self.words, add_special_tokens=False))
        return replace(
            self, tokens=tokens, closing=frozenset(closing | set(tokenizer.all_special_ids))
        )

    def of(self, inputs: Inputs) -> Inputs:
        assert self.tokens is not None
        count, positions = len(self.tokens), inputs.positions
        if not inputs.first:
            return inputs if positions is None else replace(inputs, positions=positions + count)
        at = torch.tensor(
            [self._place(row, seen) for row, seen in zip(inputs.ids, inputs.image, strict=True)]
        )
        at = at.to(inputs.ids.device)[:, None]
        columns = torch.arange(inputs.ids.shape[1] + count, device=at.device)[None]
        inside = (columns >= at) & (columns < at + count)
        source = torch.where(columns < at, columns, columns - count).clamp(
            0, inputs.ids.shape[1] - 1
        )
        source = torch.where(inside, at.clamp_max(inputs.ids.shape[1] - 1), source)
        words = torch.tensor([*self.tokens], device=at.device)[(columns - at).clamp(0, count - 1)]
        if positions is not None:
            step = torch.where(inside, columns - at, (columns >= at + count) * count)
            positions = positions.gather(-1, source.expand(*positions.shape[:-1], -1)) + step
        more = {
            name: (
                value.gather(1, source) * ~inside
                if name.endswith("token_type_ids") and value is not None
                else value
            )
            for name, value in inputs.more.items()
        }
        return replace(
            inputs,
            ids=torch.where(inside, words, inputs.ids.gather(1, source)),
            valid=torch.where(
                inside, inputs.image.any(-1, keepdim=True), inputs.valid.gather(1, source)
            ),
            image=inputs.image.gather(1, source) & ~inside,
            positions=positions,
            more=more,
        )

    def _place(self, ids: Tensor, image: Tensor) -> int:
        """The column of the words: behind the last image token and what closes it; 0 (as padding)
        without image.
        """
        seen = image.nonzero().flatten().tolist()
        if not seen:
            return 0
        row, at = ids.tolist(), seen[-1] + 1
        while at < len(row) and row[at] in self.closing:
            at += 1
        return at
