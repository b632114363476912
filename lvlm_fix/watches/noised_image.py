"""A second branch that sees the image under diffusion noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.errors import InputError
from lvlm_fix.watches.views import Inputs, View

__all__ = ["NoisedImage", "diffused"]


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
                "noise on the image follows beams only through the cache: leave use_cache on"
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
