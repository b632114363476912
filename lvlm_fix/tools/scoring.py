"""Score every head of a model over many images."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.attach import fix
from lvlm_fix.errors import InputError, UnknownNameError
from lvlm_fix.heads.metrics import METRICS, Scored
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.models import DESCRIBE, prepare, revision_of
from lvlm_fix.private import name_of
from lvlm_fix.tools.effects import EFFECTS, Labelled, continued, head_effects

__all__ = ["score_heads", "score_words"]


@torch.no_grad()
def score_heads(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Iterable[Image.Image],
    *,
    metric: str = "vhd",
    prompt: str = DESCRIBE,
    name: str = "",
    max_new_tokens: int = 64,
) -> HeadTable:
    """Score every head on every image, one prompt each, at the position that predicts the first
    token.

    Retrieval scores go over the model's own greedy answer of at most `max_new_tokens` tokens.
    Raises `UnknownNameError` for a metric that is not there and `InputError` for no images.
    """
    if metric not in METRICS:
        raise UnknownNameError(
            f"there is no head score {metric!r}; there are: {', '.join(METRICS)}; over words:"
            f" {', '.join(EFFECTS)}"
        )
    rows = []
    rule = METRICS[metric]()
    for image in images:
        inputs = prepare(model, processor, [image], [prompt])
        if rule.of_answer:
            inputs = continued(inputs, _answer(model, inputs, max_new_tokens))
        with fix(model, Scored(rule)) as handle:
            model(**inputs, use_cache=False)
            rows.append(handle.scores()[0].float().cpu().numpy())
    if not rows:
        raise InputError("no images to score heads on")
    return _table(np.stack(rows).astype(float), model, metric, prompt, name)


def score_words(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    texts: Iterable[Labelled],
    *,
    metric: str = "ad-hh",
    prompt: str = DESCRIBE,
    name: str = "",
) -> HeadTable:
    """Score every head by what it does to the labelled words of finished texts; `n` counts the
    texts that had them.

    Raises `UnknownNameError` for a metric that is not there and `InputError` for no such words.
    """
    if metric not in EFFECTS:
        raise UnknownNameError(
            f"there is no head score over words {metric!r}; there are: {', '.join(EFFECTS)}"
        )
    return _table(
        head_effects(model, processor, texts, EFFECTS[metric], prompt), model, metric, prompt, name
    )


def _table(
    scores: np.ndarray, model: PreTrainedModel, metric: str, prompt: str, name: str
) -> HeadTable:
    """The table of scores, images layers heads."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    deviation = scores.std(0, ddof=1) if len(scores) > 1 else np.zeros_like(scores[0])
    model_name = name or name_of(model)
    return HeadTable(
        metric,
        scores.mean(0),
        deviation,
        len(scores),
        model_name,
        revision_of(model),
        prompt,
        versions,
    )


def _answer(
    model: PreTrainedModel, inputs: Mapping[str, Any], tokens: int
) -> Int[Tensor, "batch tokens"]:
    """The ids of the model's greedy answer."""
    serve: Any = model.generate
    return serve(**inputs, do_sample=False, max_new_tokens=tokens)[
        :, inputs["input_ids"].shape[1] :
    ]
