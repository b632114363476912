"""Tiny random-weight models of every family, and batches for them: for tests and probing."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lvlm_fix.tools.miniature_config import config_of
from lvlm_fix.tools.miniature_pixels import pixels_of
from lvlm_fix.tools.miniature_sizes import FIRST, IMAGE, LAST

__all__ = ["FAMILIES", "IMAGE", "inputs_for", "miniature", "model_of", "sample"]

FAMILIES = tuple(
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
)  # every image-text-to-text architecture installed


def miniature(
    family: str, *, samples: int = 2, photos: int = 1, seed: int = 0
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A tiny random model of a family and a left-padded batch of inputs with `photos` images in
    every sample.
    """
    model = model_of(family, seed=seed)
    return model, inputs_for(model, samples=samples, photos=photos)


def model_of(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A tiny random model of a family."""
    torch.manual_seed(seed)
    kind: type[PreTrainedModel] = getattr(
        transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family]
    )
    return kind._from_config(config_of(family)).eval()


def inputs_for(model: PreTrainedModel, *, samples: int = 2, photos: int = 1) -> dict[str, Tensor]:
    """A left-padded batch of random texts of different lengths with `photos` random images in every
    sample.
    """
    makes = pixels_of(model)
    tokens = _tokens(model, makes(model, 1, 1))
    rows = []
    for sample in range(samples):
        row = [1, *torch.randint(2, 80, (3,)).tolist()]
        for _ in range(photos):
            row += [
                FIRST,
                *[IMAGE] * tokens,
                LAST,
                *torch.randint(2, 80, (3 + 2 * sample,)).tolist(),
            ]
        rows.append(row)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask} | makes(model, samples, photos)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inspect.signature(model.forward).parameters:
            inputs[name] = (
                (ids == IMAGE).long()
                if model.config.model_type != "paligemma"
                else torch.zeros_like(ids)
            )
    return inputs


def sample(inputs: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One sample of a batch, its padding cut off."""
    keep, samples = inputs["attention_mask"][number].bool(), len(inputs["input_ids"])
    one = {}
    for key, value in inputs.items():
        if value.shape[:2] == inputs["input_ids"].shape:
            one[key] = value[number : number + 1, keep]
        else:  # photos, patches, grids: one after the other on the first axis, or in one strip
            one[key] = value.chunk(samples, dim=0 if len(value) % samples == 0 else -1)[number]
            if key == "image_token_pooling":  # numbers of patches, counted over the batch
                one[key] = one[key] - one[key].min()
    return one


def _tokens(model: PreTrainedModel, pixels: dict[str, Tensor]) -> int:
    """How many image tokens one photo takes: the model is asked for its features."""
    asked: Any = (
        model.base_model
        if {"get_image_features", "get_video_features"} & set(dir(model.base_model))
        else model
    )
    ask = (
        asked.get_image_features if "get_image_features" in dir(asked) else asked.get_video_features
    )
    known = inspect.signature(ask).parameters
    with torch.no_grad():
        found: Any = ask(**{key: value for key, value in pixels.items() if key in known})
    entering = getattr(found, "deepstack_features", None) or ()
    if entering and isinstance(entering[0][0], int):  # (layer, features): there are no others
        found = entering[0][1]
    if not isinstance(found, (Tensor, list, tuple)):
        found = found.last_hidden_state if found.pooler_output is None else found.pooler_output
    parts = [found] if isinstance(found, Tensor) else list(found)
    return sum(part.numel() for part in parts) // model.config.get_text_config().hidden_size
