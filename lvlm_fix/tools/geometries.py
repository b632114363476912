"""Models to measure with: published geometries with random weights, or any model with its
processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from lvlm_fix.errors import SettingError
from lvlm_fix.models import DESCRIBE, load, open_image, prepare, sample_photos

__all__ = ["GEOMETRIES", "Subject", "subject"]

BEFORE, BEHIND = 35, 20  # text tokens in front of the image and behind it, as in LLaVA-1.5's prompt
QUESTIONS = DESCRIBE, "Is there a dog in the image?"
CLIP = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}


@dataclass(frozen=True)
class Geometry:
    """A configuration, and what one image of 576 tokens is to the model."""

    config: dict[str, Any]
    image: int  # id of an image token
    pixels: Callable[[int], dict[str, Tensor]]  # of so many images
    # where a random hidden state is taken for a sink: a few channels, about one token in fifty
    threshold: float = 3.0


def _llava(vision: dict[str, Any], text: dict[str, Any], threshold: float = 3.0) -> Geometry:
    image = text["vocab_size"] - 64
    config = {
        "model_type": "llava", "vision_config": CLIP | vision, "image_token_id": image,
        "image_token_index": image,
        "text_config": {"model_type": "llama", "max_position_embeddings": 8192} | text,
        "vision_feature_layer": -2,
    }  # fmt: skip
    return Geometry(
        config, image, lambda count: {"pixel_values": torch.randn(count, 3, 336, 336)}, threshold
    )


def _llava_15(part: int) -> Geometry:
    """LLaVA-1.5-7B; layers, widths, heads and vocabulary divided by `part`, head dimension and
    image tokens kept.
    """
    vision = {
        "hidden_size": 1024 // part, "intermediate_size": 4096 // part,
        "num_hidden_layers": 24 // part,
        "num_attention_heads": 16 // part,
    }  # fmt: skip
    text = {
        "hidden_size": 4096 // part, "intermediate_size": 11008 // part,
        "num_hidden_layers": 32 // part,
        "num_attention_heads": 32 // part, "num_key_value_heads": 32 // part,
        "vocab_size": 32064 // part,
    }  # fmt: skip
    return _llava(vision, text)


def _qwen() -> Geometry:
    text = {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24],
        "rope_theta": 1e6},
    }  # fmt: skip
    vision = {
        "depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7,
        15, 23, 31],
    }  # fmt: skip
    config = {
        "model_type": "qwen2_5_vl", "text_config": text, "vision_config": vision,
        "image_token_id": 151655,
        "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    }  # fmt: skip

    def pixels(count: int) -> dict[str, Tensor]:
        grid = torch.tensor([[1, 48, 48]] * count)
        return {
            "pixel_values": torch.randn(count * 48 * 48, 3 * 2 * 14 * 14),
            "image_grid_thw": grid,
        }

    return Geometry(config, 151655, pixels)


TOKENS = 576  # of one image, in all geometries
GEOMETRIES: dict[str, Callable[[], Geometry]] = {
    "llava-1.5-7b": lambda: _llava_15(1),
    "llava-1.5-7b-scaled": lambda: _llava_15(2),
    "qwen2.5-vl-7b": _qwen,
    "smallest": lambda: _llava(
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2},
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4,
         "num_key_value_heads": 4, "vocab_size": 264}, threshold=2.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model and how to make inputs for it."""

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin | None  # None: random weights
    inputs: Callable[
        [int, int, int], dict[str, Any]
    ]  # batch, images a sample, which question (0 or 1)
    settings: Mapping[str, str] = field(
        default_factory=dict[str, str]
    )  # that let VAR act on random weights


def subject(
    name: str, *, dtype: torch.dtype | Literal["auto"], device: str, seed: int = 0
) -> Subject:
    """A geometry by name with random weights; else a model by hub name or folder, or "tiny"."""
    if name in GEOMETRIES:
        if dtype == "auto":
            raise SettingError(f"{name} has no checkpoint: give its dtype")
        return _random(name, GEOMETRIES[name](), dtype, device, seed)
    model, processor = load(name, dtype=dtype, device=device)
    photo = open_image(sample_photos()[0])

    def inputs(batch: int, images: int, question: int) -> dict[str, Any]:
        if images != 1:
            raise SettingError(
                f"--image-tokens is for geometries ({', '.join(GEOMETRIES)}), not for {name!r}"
            )
        return dict(prepare(model, processor, [photo] * batch, [QUESTIONS[question]] * batch))

    return Subject(name, model, processor, inputs)


def _random(name: str, geometry: Geometry, dtype: torch.dtype, device: str, seed: int) -> Subject:
    torch.manual_seed(seed)
    settings = dict(geometry.config)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    for part in (config, config.get_text_config()):
        part.eos_token_id = None  # every text has the length asked for
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    model.generation_config.pad_token_id = 0

    def inputs(batch: int, images: int, question: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        before, behind = torch.randint(3, 200, (BEFORE,)), torch.randint(3, 200, (2, batch, BEHIND))
        before[0] = 1  # what begins every text
        image = torch.full((batch, images * TOKENS), geometry.image)
        ids = torch.cat((before.expand(batch, -1), image, behind[question]), dim=1)
        out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | geometry.pixels(
            batch * images
        )
        if "image_grid_thw" in out:
            out["mm_token_type_ids"] = (ids == geometry.image).long()
        return {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in out.items()
        }

    loose = {"var.threshold": str(geometry.threshold), "var.ratio": "0", "var.image_share": "0"}
    return Subject(name, model, None, inputs, loose)
