"""Random photos as every family wants them: squares, tiles, patches with a grid, words of a code
book.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["Pixels", "pixels_of"]

Pixels = Callable[[PreTrainedModel, int, int], dict[str, Tensor]]


def pixels_of(model: PreTrainedModel) -> Pixels:
    """How a family wants its photos: said here, or read off the names in its forward."""
    if said := PIXELS.get(model.config.model_type):
        return said
    known = inspect.signature(model.forward).parameters
    for name, makes in RULES.items():
        if name in known or name in model.config.to_dict():
            return makes
    return _square


def _side(model: PreTrainedModel) -> int:
    vision = model.config.vision_config
    size = getattr(vision, "sam_config", vision).image_size
    return size if isinstance(size, int) else size[0]


def _square(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(samples * photos, 3, _side(model), _side(model))}


def _stacked(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos of a sample on an axis of their own."""
    return {"pixel_values": torch.randn(samples, photos, 3, _side(model), _side(model))}


def _tiles(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """A photo and its two tiles, with the photos' own sizes."""
    side, count = _side(model), samples * photos
    sizes = torch.tensor([[side, 2 * side]] * count)
    return {"pixel_values": torch.randn(count, 3, 3, side, side), "image_sizes": sizes}


def _sized(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    side, count = _side(model), samples * photos
    return _square(model, samples, photos) | {"image_sizes": torch.tensor([[side, side]] * count)}


def _grid(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Flattened patches and their grid, 4 × 6 patches a photo."""
    vision, count = model.config.vision_config.to_dict(), samples * photos
    channels = vision.get("in_channels") or vision.get("num_channels") or 3
    frames = vision.get("temporal_patch_size") or vision.get("patch_temporal") or 1
    patches = torch.randn(24 * count, channels * frames * vision["patch_size"] ** 2)
    return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 6]] * count)}


def _shaped(*shape: int) -> Pixels:
    """Patches of one shape each, and their grid; -1 is the number of patches."""

    def makes(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
        found, side = _grid(model, samples, photos), model.config.vision_config.patch_size
        return found | {"pixel_values": found["pixel_values"].reshape(*shape, 3, side, side)}

    return makes


def _merged(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    return _grid(model, samples, photos) | {
        "image_merge_sizes": torch.tensor([2] * samples * photos)
    }


def _spatial(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Patches on an axis of their own, with their grid."""
    count, side = samples * photos, model.config.vision_config.patch_size
    return {
        "pixel_values": torch.randn(count, 24, 3 * side**2),
        "spatial_shapes": torch.tensor([[4, 6]] * count),
        "pixel_attention_mask": torch.ones(count, 24, dtype=torch.long),
    }


def _strip(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """All patches in one long strip, with the grids."""
    count, side = samples * photos, model.config.vision_config.patch_size
    return {
        "pixel_values": torch.randn(1, 3, side, side * 32 * count),
        "target_sizes": torch.tensor([[4, 8]] * count),
    }


def _flat(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    found = _grid(model, samples, photos)
    return {"pixel_values": found["pixel_values"], "image_grid_hw": found["image_grid_thw"][:, 1:]}


def _double(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos in low and in high resolution."""
    side = model.config.high_res_vision_config.image_size
    return _square(model, samples, photos) | {
        "high_res_pixel_values": torch.randn(samples * photos, 3, side, side)
    }


def _tiled(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    return _stacked(model, samples, photos) | {
        "pixel_attention_mask": torch.ones(samples, photos, dtype=torch.bool)
    }


def _instructed(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos, and what the query tokens are told."""
    ids = torch.randint(2, 80, (samples * photos, 4))
    return _square(model, samples, photos) | {
        "qformer_input_ids": ids,
        "qformer_attention_mask": torch.ones_like(ids),
    }


def _quantized(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos for a tower that turns them into words of a code book."""
    side, count = model.config.vq_config.resolution, samples * photos
    return {"pixel_values": torch.randn(count, 3, side, side)}


def _frames(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Videos of two frames, and what the query tokens are told."""
    told = _instructed(model, samples, photos)
    return told | {"pixel_values": torch.randn(samples * photos, 2, 3, _side(model), _side(model))}


def _placed(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Flattened patches, 6 × 6 a photo, and the place of each."""
    count, vision = samples * photos, model.config.vision_config
    places = torch.cartesian_prod(torch.arange(6), torch.arange(6)).repeat(count, 1, 1)
    patches = torch.randn(count, 36, 3 * vision.patch_size**2)
    return {"pixel_values": patches, "image_position_ids": places}


def _placed_large(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Four larger patches a photo, and the place of each."""
    count, vision = samples * photos, model.config.vision_config
    places = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(count, 1, 1)
    patches = torch.randn(count, 4, 3 * vision.model_patch_size**2)
    return {"pixel_values": patches, "image_position_ids": places}


def _blocks(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Blocks of merged patches, 4 × 6 a photo, channels last, and their grid."""
    vision, count = model.config.vision_config, samples * photos
    side = vision.spatial_merge_size * vision.patch_size
    blocks = torch.randn(24 * count, side, side, vision.num_channels)
    return {"pixel_values": blocks, "image_grid_thw": torch.tensor([[1, 4, 6]] * count)}


def _cubes(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Four patches a photo, each with frames, channels last."""
    vision, side = model.config.vision_config, model.config.vision_config.patch_size
    shape = 4 * samples * photos, vision.temporal_patch_size, side, side, vision.num_channels
    return {"pixel_values": torch.randn(*shape)}


def _pooled(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Flattened patches, 4 × 4 a photo, of which every four become one token."""
    count, side = samples * photos, model.config.vision_config.patch_size
    return {
        "pixel_values": torch.randn(count, 16, 3 * side**2),
        "image_token_pooling": torch.arange(16 * count).reshape(-1, 4),
        "image_grids": torch.tensor([[2, 2, 0, 0]] * count),
    }


def _coded(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos of 32 × 32 for a tower that turns them into words, with their sizes."""
    count = samples * photos
    sizes = torch.tensor([[32, 32]] * count)
    return {"pixel_values": torch.randn(count, 3, 32, 32), "image_sizes": sizes}


def _linear(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Six flattened patches a photo, which a linear layer embeds."""
    return {"pixel_values": torch.randn(samples * photos, 6, 3 * model.config.patch_size**2)}


RULES: dict[str, Pixels] = {
    "image_grid_thw": _grid,
    "image_grid_pinpoints": _tiles,
    "qformer_input_ids": _instructed,
    "high_res_pixel_values": _double,
    "tile_fine_mask": _tiled,
    "spatial_shapes": _spatial,
    "target_sizes": _strip,
    "image_grid_hw": _flat,
    "pixel_attention_mask": _stacked,
}
PIXELS: dict[str, Pixels] = {
    "mistral3": _sized, "lighton_ocr": _sized, "mistral_large4": _sized, "aria": _square,
    "video_llama_3": _merged,
    "kimi_k25": _shaped(-1), "paddleocr_vl": _shaped(-1), "paligemma": _square,
    "chameleon": _quantized,
    "gemma4": _placed, "diffusion_gemma": _placed, "gemma4_unified": _placed_large,
    "inkling2": _blocks, "inkling2_loop": _blocks, "inkling_mm_model": _cubes, "molmo2": _pooled,
    "emu3": _coded, "apertus1p5": _coded,
    "fuyu": _linear, "instructblipvideo": _frames,
}  # fmt: skip
