"""What asking costs: questions behind the image of a text, beside the plain generation of it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from lvlm_fix.ask.asker import answers_to
from lvlm_fix.ask.prefix import prefix_of
from lvlm_fix.core.call import Signature, cache_in
from lvlm_fix.errors import SettingError
from lvlm_fix.families import family_of
from lvlm_fix.tools.geometries import Subject

__all__ = ["QUESTION", "asking"]

QUESTION = (
    15  # tokens of one behind the image: " Is there a tennis racket in the image? ASSISTANT:"
)


@torch.no_grad()
def asking(subject: Subject, objects: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds of plain generation and of asking about so many objects, in turn, and their ratio.

    Raises `SettingError` for counts below 1.
    """
    if min(objects, tokens, repeats) < 1:
        raise SettingError(
            f"ask, tokens and repeats must be >= 1, got {objects}, {tokens}, {repeats}"
        )
    model: Any = subject.model
    family, name = family_of(model), Signature(model).cache
    inputs = subject.inputs(1, 1, 0)
    tails = [[3 + i] * QUESTION for i in range(objects)]
    plain: list[float] = []
    asked: list[float] = []
    shared = False
    for turn in range(repeats + 1):  # the first one warms up
        began = time.perf_counter()
        output = model.generate(
            **inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
        )
        _wait()
        written = time.perf_counter()
        prefix = prefix_of(model, family, {**inputs, name: cache_in(output)}, {0})
        shared = prefix.shared
        answers_to(model, family, prefix, [0] * objects, tails).cpu()
        if turn:
            plain.append(written - began)
            asked.append(time.perf_counter() - written)
    ratios = np.array(asked) / np.array(plain)
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return {
        "objects": objects,
        "tokens": tokens,
        "plain_seconds": float(np.median(plain)),
        "ask_seconds": float(np.median(asked)),
        "extra": [float(middle), float(low), float(high)],
        "shared": shared,
        "n": repeats,
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
