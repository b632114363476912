"""Make steering vectors from a model's states at right and at invented words or captions.

From labelled texts (`heads score --words`), a text's difference is the mean state at its right
words less that at its invented ones, each at the word's last token: the last row of the caption cut
behind that word (ours). Invented words stand later in a text, and this difference holds that too.
From pairs of captions, it is the last row of prompt and right caption less that of the invented one
(VTI's code).
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix import __version__
from lvlm_fix.errors import DataError, InputError, SettingError
from lvlm_fix.families import family_of
from lvlm_fix.models import DESCRIBE, prepare, revision_of
from lvlm_fix.private import name_of
from lvlm_fix.tools.effects import Labelled, continued, spans
from lvlm_fix.tools.nullu import Pair
from lvlm_fix.vectors.vectors import Vectors

__all__ = ["KINDS", "difference", "direction", "make"]

KINDS = ("mean", "vti")
"""`mean`: the mean difference. `vti`: the mean, and the first principal component over all layers
together, of length 1 (VTI's code).
"""


@torch.no_grad()
def make(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    texts: Iterable[Labelled | Pair],
    *,
    kind: str = "mean",
    prompt: str = DESCRIBE,
    name: str = "",
    about: dict[str, str] | None = None,
) -> Vectors:
    """Vectors for every layer: from what is right towards, from what is invented away.

    Texts without right or without invented words do not count. Raises `SettingError` for another
    kind, `InputError` where too few texts are left, `DataError` where they tell nothing.
    """
    if kind not in KINDS:
        raise SettingError(f"kind takes {' or '.join(KINDS)}, got {kind!r}")
    found = [difference(model, processor, text, prompt) for text in texts]
    rows = [row for row in found if row is not None]
    if len(rows) < (least := 2 if kind == "vti" else 1):
        raise InputError(
            f"vectors of kind {kind} need {least} or more texts with right and with invented words;"
            f" of {len(found)}, {len(rows)} have both"
        )
    manifest = {
        "model": name or name_of(model), "revision": revision_of(model) or "", "kind": kind,
        "counting": "decoder", "prompt": prompt, "texts": str(len(rows)), "lvlm-fix": __version__,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    ways = direction(torch.stack(rows), kind)
    return Vectors(dict(enumerate(ways)), "made in memory", manifest | (about or {}))


def direction(
    rows: Float[Tensor, "texts layers width"], kind: str
) -> Float[Tensor, "layers width"]:
    """One vector a layer, from differences."""
    mean = rows.mean(0)
    if not bool(mean.any()):
        raise DataError("right and invented words are the same to the model")
    if kind == "mean":
        return mean
    left, sizes, right = torch.linalg.svd((rows - mean).flatten(1), full_matrices=False)
    if not sizes[0] > 1e-6 * rows.norm():
        raise DataError("the texts differ in only one direction: there is no principal component")
    first = left[:, 0]
    sign = 1.0 if first[first.abs().argmax()] > 0 else -1.0  # its largest share is above 0
    return mean + (sign * right[0]).reshape(mean.shape)


def difference(
    model: PreTrainedModel, processor: ProcessorMixin, text: Labelled | Pair, prompt: str
) -> Float[Tensor, "layers width"] | None:
    """States of what is right less those of what is invented; None where a text lacks one."""
    inputs = prepare(model, processor, [text.image], [prompt])
    if isinstance(text, Labelled):
        more, groups = spans(processor, inputs, text)
        ends = [[span[-1] for span in group] for group in groups]
        if not all(ends):
            return None
        states = _states(model, more)
        return states[:, ends[0]].mean(1) - states[:, ends[1]].mean(1)
    right, invented = (_last(model, processor, inputs, caption) for caption in text[1:])
    return right - invented


def _last(
    model: PreTrainedModel, processor: ProcessorMixin, inputs: Any, caption: str
) -> Float[Tensor, "layers width"]:
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one
    ids = tokenizer(caption, add_special_tokens=False)["input_ids"]
    more = continued(inputs, torch.tensor([ids], device=inputs["input_ids"].device))
    return _states(model, more)[:, -1]


def _states(model: PreTrainedModel, inputs: Any) -> Float[Tensor, "layers query width"]:
    """What each decoder layer gives for one text (the last one, before the final norm)."""
    blocks = family_of(model).layers
    with _leaving(blocks) as found:
        model(**inputs, use_cache=False)
    return torch.stack([found[layer] for layer in range(len(blocks))])


@contextmanager
def _leaving(blocks: nn.ModuleList) -> Generator[dict[int, Tensor]]:
    found = dict[int, Tensor]()

    def keep(layer: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        found[layer] = hidden[0].float().cpu()

    hooks = [
        block.register_forward_hook(partial(keep, layer)) for layer, block in enumerate(blocks)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
