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

from lvlm_fix.apply import fix
from lvlm_fix.errors import InputError, UnknownNameError
from lvlm_fix.heads.metrics import METRICS
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.models import DESCRIBE, prepare, revision_of

__all__ = ["continued", "score_heads"]


def continued(inputs: Mapping[str, Any], ids: Int[Tensor, "batch tokens"]) -> dict[str, Any]:
    """The inputs of prompts with more text behind them."""
    more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds = {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids") if name in inputs}
    return dict(inputs) | {name: torch.cat((inputs[name], part), dim=1) for name, part in (more | kinds).items()}


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
    """Score every head on every image, one prompt each, at the position that predicts the first token.

    Retrieval scores go over the model's own greedy answer of at most `max_new_tokens` tokens.
    Raises `UnknownNameError` for a metric that is not there and `InputError` for no images.
    """
    if metric not in METRICS:
        raise UnknownNameError(f"there is no head score {metric!r}; there are: {', '.join(METRICS)}")
    rows = []
    scoring = METRICS[metric]()
    for image in images:
        inputs = prepare(model, processor, [image], [prompt])
        if "answer" in scoring.needs:
            inputs = continued(inputs, _answer(model, inputs, max_new_tokens))
        with fix(model, scoring) as handle:
            model(**inputs, use_cache=False)
            rows.append(handle.scores()[0].float().cpu().numpy())
    if not rows:
        raise InputError("no images to score heads on")
    scores = np.stack(rows).astype(float)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    deviation = scores.std(0, ddof=1) if len(rows) > 1 else np.zeros_like(scores[0])
    model_name = name or model.config._name_or_path or type(model).__name__
    return HeadTable(metric, scores.mean(0), deviation, len(rows), model_name, revision_of(model), prompt, versions)


def _answer(model: PreTrainedModel, inputs: Mapping[str, Any], tokens: int) -> Int[Tensor, "batch tokens"]:
    """The ids of the model's greedy answer."""
    serve: Any = model.generate
    return serve(**inputs, do_sample=False, max_new_tokens=tokens)[:, inputs["input_ids"].shape[1] :]
