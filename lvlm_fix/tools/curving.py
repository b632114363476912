"""Measure a model's attention on its own text, at right and at invented object words.

The model describes photos with known objects; one more pass over each finished text gives every
row. The row that predicts a word's first token is the word's (ours: the source says at which words,
not at which row). A word with nothing written in front of it does not count.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Set
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.errors import InputError
from lvlm_fix.grounding.recorder import Recorder, passing
from lvlm_fix.grounding.words import lengths_of
from lvlm_fix.heads.curves import Curves
from lvlm_fix.models import DESCRIBE, answer_ids, prepare, revision_of
from lvlm_fix.objects import coco
from lvlm_fix.private import name_of
from lvlm_fix.tools.effects import continued

__all__ = ["measure_curves", "shares"]


@torch.no_grad()
def shares(
    model: PreTrainedModel, inputs: Any, ids: list[int]
) -> Float[Tensor, "tokens layers heads"]:
    """For each token of a finished text, the attention that the row predicting it gives one token
    of the text before it, on average; 0 for the first.
    """
    prompt = inputs["input_ids"].shape[1]
    more = continued(inputs, torch.tensor([ids], device=inputs["input_ids"].device))
    rows = torch.arange(prompt - 1, prompt + len(ids) - 1)
    recorder = Recorder(rows, torch.arange(prompt, prompt + len(ids)))
    passing(model, recorder, lambda: model(**more, use_cache=False))
    looks = [recorder.looks[layer].float().sum(-1).cpu() for layer in sorted(recorder.looks)]
    before = torch.arange(len(ids)).clamp_min(1)  # so many tokens stand before each
    return torch.stack(looks, 1) / before[:, None, None]


@torch.no_grad()
def measure_curves(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    photos: Iterable[tuple[Image.Image, Set[str]]],
    *,
    prompt: str = DESCRIBE,
    name: str = "",
    max_new_tokens: int = 128,
) -> Curves:
    """Curves from photos and the objects in each (COCO's words).

    Raises `InputError` unless the texts name objects that are there and objects that are not.
    """
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    count = 0
    for photo, objects in photos:
        count += 1
        (ids,) = answer_ids(model, processor, [photo], [prompt], max_new_tokens=max_new_tokens)
        ids = [i for i in ids if i not in tokenizer.all_special_ids]
        if not ids:
            continue
        looked = shares(model, prepare(model, processor, [photo], [prompt]), ids)
        ends, text = lengths_of(tokenizer, ids), tokenizer.decode(ids).strip()
        for spot in coco(text):
            first = next(i for i, stop in enumerate(ends) if stop > spot.start)
            if first:
                found[spot.object in objects].append(looked[first].numpy())
    if not (found[True] and found[False]):
        raise InputError(
            f"curves need words for objects there and for objects not there; {count} texts had "
            f"{len(found[True])} and {len(found[False])}"
        )
    real, invented = (np.stack(found[kind]).mean(0, dtype=float) for kind in (True, False))
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return Curves(
        real, invented, len(found[True]), len(found[False]), count, name or name_of(model),
        revision_of(model), prompt, versions,
    )  # fmt: skip
