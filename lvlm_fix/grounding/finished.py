"""`ground`: measure every word of a finished text about a photo."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.ask.asker import Asker
from lvlm_fix.ask.calibration import Calibration
from lvlm_fix.errors import InputError
from lvlm_fix.grounding.found import Grounding
from lvlm_fix.grounding.measured import measure
from lvlm_fix.grounding.words import Word, lengths_of, words_of
from lvlm_fix.models import prepare
from lvlm_fix.objects import coco
from lvlm_fix.objects.spots import Find

__all__ = ["ground"]


def ground(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    image: Image.Image,
    prompt: str,
    text: str | Sequence[int],
    *,
    looks: bool = False,
    published: bool = False,
    ask: Asker | bool = True,
    find: Find = coco,
    curve: Calibration | None = None,
) -> Grounding:
    """Measure every word of a finished text, given as a string or as token ids (exact for generated
    texts).

    The model is asked about each object word that `find` finds, unless `ask` is False. `looks`
    keeps the attention of every head on the image for each token. `published` adds the scores of
    other papers (`measure`). A calibration (`shipped("tiny")`) tells what a Yes is worth. Raises
    `InputError`, `ModelError`.
    """
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one
    ids = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        if isinstance(text, str)
        else list(text)
    )
    ids = [i for i in ids if i not in tokenizer.all_special_ids]
    if not ids:
        raise InputError("the text is empty")
    inputs = prepare(model, processor, [image], [prompt])
    found = measure(model, inputs, torch.tensor(ids), looks=looks, published=published)
    lengths, clean = lengths_of(tokenizer, ids), tokenizer.decode(ids).strip()
    grid = None if found.looks is None else patch_grid(model, inputs, found.looks.shape[-1])
    words = words_of(lengths, clean)
    answers = None
    if ask is not False:
        asker = Asker(model, processor) if ask is True else ask
        answers = _answers(asker, find, image, clean, words)
    return Grounding(clean, words, found.vhd, found.tokens, found.looks, grid, answers, curve)


def _answers(
    asker: Asker, find: Find, image: Image.Image, text: str, words: Sequence[Word]
) -> dict[int, float]:
    """The answers about the object words of a text, by the number of each word they cover."""
    spots = find(text)
    if not spots:
        return {}
    (odds,) = asker.look([image], [[spot.object for spot in spots]])
    return {
        number: odds[spot.object]
        for spot in spots
        for number, word in enumerate(words)
        if word.start < spot.end and spot.start < word.end
    }


def patch_grid(
    model: PreTrainedModel, inputs: Mapping[str, Any], tokens: int
) -> tuple[int, int] | None:
    """Rows and columns of the patches that the first image tokens stand for; None if they form no
    known grid.

    Qwen's processors give the grid. A square number is a square. Tiled models begin with the grid
    of the whole photo.
    """
    vision: Any = model.config.vision_config
    if "image_grid_thw" in inputs:
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        merge = vision.spatial_merge_size
        return rows // merge, columns // merge
    side = math.isqrt(tokens)
    if side * side == tokens:
        return side, side
    sizes = (vision.image_size, vision.patch_size)
    image, patch = (size[0] if isinstance(size, list | tuple) else size for size in sizes)
    side = image // patch
    return (side, side) if side * side <= tokens else None
