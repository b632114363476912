"""Tiny random-weight models of every family, built from their configurations: for tests and for probing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

__all__ = ["MINIATURES", "miniature"]

IMAGE, VIDEO, FIRST, LAST, WORDS = 90, 91, 92, 93, 99  # ids of special tokens, and the size of the vocabulary
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 48, "intermediate_size": 37, "num_hidden_layers": 5, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": None,
    "pad_token_id": 0, "initializer_range": 0.15,  # attention that is far from uniform
}  # fmt: skip
CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 30, "patch_size": 10, "projection_dim": 32,
}  # fmt: skip
SIGLIP = CLIP | {"model_type": "siglip_vision_model", "vision_use_head": False}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
QWEN_VISION = {
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "hidden_size": 48,
}
Pixels = Callable[[int], dict[str, Tensor]]


def _square(side: int, tiles: int | None = None) -> Pixels:
    """Pixel values of `count` images: count (tiles) 3 side side."""
    return lambda count: {"pixel_values": torch.randn(*((count,) if tiles is None else (count, tiles)), 3, side, side)}


def _tiles(side: int) -> Pixels:
    """Tiled pixel values with the photos' own sizes."""
    return lambda count: _square(side, 3)(count) | {"image_sizes": torch.tensor([[side, side * 2]] * count)}


def _patches(count: int) -> dict[str, Tensor]:
    """Flattened patches of Qwen's towers, 4 × 6 patches a photo."""
    grid = torch.tensor([[1, 4, 6]] * count)
    return {"pixel_values": torch.randn(24 * count, 3 * 2 * 14 * 14), "image_grid_thw": grid}


def _qwen(name: str, vision: dict[str, Any]) -> tuple[dict[str, Any], int, Pixels]:
    config = {
        "model_type": name, "text_config": TEXT | {"rope_parameters": ROPE}, "vision_config": vision,
        "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": FIRST, "vision_end_token_id": LAST,
    }  # fmt: skip
    return config, 6, _patches


def _llava(name: str, vision: dict[str, Any], text: str, count: int, pixels: Pixels, **more: Any) -> Any:
    config = {
        "model_type": name, "vision_config": vision, "text_config": TEXT | {"model_type": text},
        "image_token_index": IMAGE, "image_token_id": IMAGE, "vision_feature_layer": -1,
    }  # fmt: skip
    return config | more, count, pixels


def _internvl() -> tuple[dict[str, Any], int, Pixels]:
    vision = {
        "model_type": "internvl_vision", "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": [28, 28], "patch_size": [7, 7],
    }  # fmt: skip
    config = {"model_type": "internvl", "vision_config": vision, "text_config": TEXT | {"model_type": "qwen2"}}
    return config | {"image_token_id": IMAGE, "image_seq_length": 4, "downsample_ratio": 0.5}, 4, _square(28)


# family -> its configuration, image tokens a photo, pixel values
MINIATURES: dict[str, Callable[[], tuple[dict[str, Any], int, Pixels]]] = {
    "llava": lambda: _llava("llava", CLIP, "llama", 9, _square(30)),
    "llava_next": lambda: _llava(
        "llava_next", CLIP, "llama", 9 + 2 * 9 + 3, _tiles(30), image_grid_pinpoints=[[30, 60]]
    ),
    "llava_onevision": lambda: _llava(
        "llava_onevision", SIGLIP, "qwen2", 9 + 2 * 9 + 3 + 0, _tiles(30), image_grid_pinpoints=[[30, 60]],
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9", video_token_index=VIDEO,
    ),
    "qwen2_vl": lambda: _qwen("qwen2_vl", QWEN_VISION | {"mlp_ratio": 2}),
    "qwen2_5_vl": lambda: _qwen(
        "qwen2_5_vl",
        {
            "depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2,
            "intermediate_size": 37, "out_hidden_size": 48, "fullatt_block_indexes": [1], "window_size": 56,
        },
    ),
    "internvl": _internvl,
}  # fmt: skip


def miniature(
    name: str, *, samples: int = 2, photos: int = 1, seed: int = 0
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A tiny random model of a family and a left-padded batch of inputs with `photos` images in every sample."""
    torch.manual_seed(seed)
    settings, tokens, pixels = MINIATURES[name]()
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForImageTextToText.from_config(config).eval()
    rows = []
    for sample in range(samples):
        row = [1, *torch.randint(2, 80, (3,)).tolist()]
        for _ in range(photos):
            row += [FIRST, *[IMAGE] * tokens, LAST, *torch.randint(2, 80, (3 + 2 * sample,)).tolist()]
        rows.append(row)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask} | pixels(samples * photos)
    if name.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    return model, inputs
