"""What is asked of a method, and of a family, where families are probed."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.attach import fix
from lvlm_fix.method import AtLayer, Method
from lvlm_fix.tools.miniature import IMAGE, inputs_for, sample

__all__ = ["batch_is_alike", "cached", "judge", "line", "rows_are_alike"]

CLOSE: dict[str, Any] = {"atol": 5e-5, "rtol": 1e-3}


def judge(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    plain: Tensor,
    neutral: Method,
    acting: Method,
    batched: bool,
) -> tuple[str, str]:
    """ "works", or "unknown" with the reason."""
    with fix(model, neutral):
        if not torch.equal(model(**inputs).logits, plain):
            return "unknown", "neutral settings change the logits"
    with fix(model, acting) as handle:
        changed = model(**inputs).logits
        if changed.isnan().any():
            return "unknown", "acting settings give NaN"
        if torch.equal(changed, plain):
            return (
                "unknown",
                f"acting settings change nothing: {handle.report()[0].note or 'no reason known'}",
            )
        if batched and not batch_is_alike(model, inputs):
            return "unknown", "a padded batch differs from its samples one by one"
    return "works", ""


def batch_is_alike(model: PreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    """Whether a left-padded batch gives what its samples give one by one."""
    together = model(**inputs).logits[:, -1]
    alone = torch.cat(
        [model(**sample(inputs, number)).logits[:, -1] for number in range(len(together))]
    )
    return torch.allclose(together, alone, **CLOSE)


@dataclass(frozen=True)
class HalfWeights(Method):
    """Half of every weight: in the last layer of the prompt, in all layers of a new token."""

    def attention_weights(self, weights: Tensor, at: AtLayer) -> Tensor:
        return weights / 2 if not at.prefill or at.layer == at.layers - 1 else weights


@dataclass(frozen=True)
class HalfOutputs(Method):
    """The same by the heads' outputs: equal to half the weights where rows are computed as the
    model computes them.
    """

    def head_outputs(self, outputs: Tensor, at: AtLayer) -> Tensor:
        return outputs / 2 if not at.prefill or at.layer == at.layers - 1 else outputs


def rows_are_alike(model: PreTrainedModel, inputs: dict[str, Tensor]) -> str:
    """Whether rows that edits recompute are what the model's attention computes, mask, scale and
    window included.
    """
    options = {
        "max_new_tokens": 2,
        "min_new_tokens": 2,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    found = []
    try:
        for half in (HalfWeights(), HalfOutputs()):
            with fix(model, half):
                out: Any = model.generate(**inputs, **options)  # type: ignore[operator]
                found.append(torch.stack(out.logits))
    except Exception as error:
        return f"unknown: {line(error)}"
    same = torch.allclose(found[0], found[1], **CLOSE)
    return "works" if same else "unknown: recomputed rows are not the model's"


def cached(model: PreTrainedModel, acting: Method) -> str:
    """Whether decoding from the cache gives what one pass over prompt and text gives.

    Under `acting`: VAR, since most others look at the prompt's end, which a longer one moves.
    """
    inputs = inputs_for(model, samples=1)
    try:
        if not _continues(model, inputs):
            return "unknown: the unmodified model itself differs"
        with fix(model, acting):
            return "works" if _continues(model, inputs) else "unknown: cached and uncached differ"
    except Exception as error:
        return f"unknown: {line(error)}"


def _continues(model: PreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    options = {
        "max_new_tokens": 3,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    out: Any = model.generate(**inputs, **options)  # type: ignore[operator]
    ids = out.sequences[:, :-1]
    longer = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            longer[name] = (ids == IMAGE).long() if inputs[name].any() else torch.zeros_like(ids)
    return torch.allclose(out.logits[-1], model(**longer).logits[:, -1], **CLOSE)


def line(error: Exception) -> str:
    """An exception in one line, with the place that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:160]} ({Path(last.filename).name}:{last.lineno})"
