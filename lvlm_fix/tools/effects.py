"""What one head does to the words of a finished text: how their log-probability changes when a
method acts on it alone.

Zeroing a head is AD-HH's attribution (ICLR 2025); calibrating it is ACT's head filter (arXiv
2406.15765). Measured by one pass over prompt and text per head, so a table costs layers × heads
passes a text. A word's log-probability is the sum over its tokens; a text's value is the mean over
its words (ours).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.attach import fix
from lvlm_fix.errors import DataError, InputError
from lvlm_fix.families import family_of
from lvlm_fix.grounding.words import lengths_of
from lvlm_fix.heads.picks import PicksHeads
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.method import AtLayer
from lvlm_fix.methods.act import ACT
from lvlm_fix.methods.vhr import reinforced
from lvlm_fix.models import open_image, prepare
from lvlm_fix.tools.photos import Broken

__all__ = ["EFFECTS", "KnockOut", "Labelled", "continued", "head_effects", "read_labelled",
           "spans"]  # fmt: skip


def continued(inputs: Mapping[str, Any], ids: Int[Tensor, "batch tokens"]) -> dict[str, Any]:
    """The inputs of prompts with more text behind them."""
    more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds = {
        name: torch.zeros_like(ids)
        for name in ("token_type_ids", "mm_token_type_ids")
        if name in inputs
    }
    return dict(inputs) | {
        name: torch.cat((inputs[name], part), dim=1) for name, part in (more | kinds).items()
    }


@dataclass(frozen=True)
class Labelled:
    """A text about a photo: words of it that the photo supports, and words that it does not."""

    image: Image.Image
    text: str
    grounded: tuple[str, ...]
    invented: tuple[str, ...]


@dataclass(frozen=True)
class KnockOut(PicksHeads):
    """The picked heads give nothing, at every position."""

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], at: AtLayer
    ) -> Float[Tensor, "batch query heads dim"]:
        picked = self.picked(at)
        return outputs if picked is None else reinforced(outputs, picked.heads, 0.0)


@dataclass(frozen=True)
class Effect:
    """A head score: the method that acts on one head, and how the words' changes count."""

    method: Callable[[HeadTable], PicksHeads]
    grounded: float
    invented: float


def _knock_out(table: HeadTable) -> PicksHeads:
    return KnockOut(table=table, top=1)


def _calibrate(table: HeadTable) -> PicksHeads:
    return ACT(table=table, top=1)


EFFECTS: dict[str, Effect] = {
    "knock-out-grounded": Effect(_knock_out, -1, 0),  # how far grounded words fall without the head
    "knock-out-invented": Effect(_knock_out, 0, -1),
    "ad-hh": Effect(_knock_out, 1, -1),  # how much further invented words fall than grounded ones
    "act": Effect(_calibrate, 1, 0),  # how far grounded words rise when the head is calibrated
}


def read_labelled(
    path: Path, images: Path, only: Container[int] | None = None, broken: Broken | None = None
) -> Iterable[Labelled]:
    """Texts from JSON lines `{"image": file name or COCO id, "text", "grounded": [words],
    "invented": [words]}`; `only` some lines, by number from 1. With `broken`, texts whose photo
    cannot be read are left out, and noted there.

    Raises `DataError` naming the line that cannot be used.
    """
    photos = {name: file for file in images.iterdir() for name in (file.name, _number(file.stem))}
    for number, line in enumerate(_lines(path), 1):
        if only is not None and number not in only:
            continue
        try:
            row = json.loads(line)
            grounded, invented = (tuple(map(str, row[key])) for key in ("grounded", "invented"))
            photo, text = photos[row["image"]], str(row["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: not a text with a photo and its words ({error!r})"
            ) from None
        image = open_image(photo) if broken is None else broken.open(photo)
        if image is not None:
            yield Labelled(image, text, grounded, invented)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the words file {str(path)!r}: {error}") from None


def _number(stem: str) -> int | None:
    digits = re.search(r"\d+$", stem)
    return int(digits[0]) if digits else None


@torch.no_grad()
def head_effects(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    labelled: Iterable[Labelled],
    effect: Effect,
    prompt: str,
) -> Float[np.ndarray, "texts layers heads"]:
    """The score of every head for every text that has the words it needs; NaN in layers the method
    does not act in.

    Raises `InputError` where no text has such words.
    """
    family = family_of(model)
    layers, heads = len(family.layers), family.decoder.config.num_attention_heads
    acting = effect.method(_one_hot((layers, heads), (0, 0))).acts_in(layers)
    scores = []
    for one in labelled:
        inputs, groups = spans(processor, prepare(model, processor, [one.image], [prompt]), one)
        weights = effect.grounded, effect.invented
        if any(weight and not group for weight, group in zip(weights, groups, strict=True)):
            continue
        plain = _means(model, inputs, groups)
        found = np.full((layers, heads), np.nan)
        for layer in acting:
            for head in range(heads):
                with fix(model, effect.method(_one_hot((layers, heads), (layer, head)))):
                    changed = _means(model, inputs, groups)
                found[layer, head] = sum(
                    w * (c - p) for w, c, p in zip(weights, changed, plain, strict=True) if w
                )
        scores.append(found)
    if not scores:
        raise InputError("no text has the words to measure: give captions with such words")
    return np.stack(scores)


def _one_hot(shape: tuple[int, int], head: tuple[int, int]) -> HeadTable:
    """A table in which one head has 1 and the others 0."""
    mean = np.zeros(shape)
    mean[head] = 1
    return HeadTable("one head", mean, np.zeros(shape), 1, "", None, "", {})


def spans(
    processor: ProcessorMixin, inputs: Mapping[str, Any], one: Labelled
) -> tuple[dict[str, Any], tuple[list[range], list[range]]]:
    """The inputs with the text behind the prompt, and the positions of the grounded and of the
    invented words.
    """
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one
    prompt = inputs["input_ids"]
    ids = torch.tensor(
        [tokenizer(one.text, add_special_tokens=False)["input_ids"]], device=prompt.device
    )
    ends = lengths_of(tokenizer, ids[0].tolist())
    text = tokenizer.decode(ids[0]).strip()
    groups = tuple(
        [
            range(prompt.shape[1] + first, prompt.shape[1] + last)
            for word in dict.fromkeys(words)
            for match in re.finditer(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
            for first, last in [_tokens(ends, *match.span())]
        ]
        for words in (one.grounded, one.invented)
    )
    return continued(inputs, ids), (groups[0], groups[1])


def _tokens(ends: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """First token of a stretch of characters, and the one behind its last."""
    first = next(i for i, stop in enumerate(ends) if stop > start)
    return first, next(i for i, stop in enumerate(ends) if stop >= end) + 1


def _means(
    model: PreTrainedModel, inputs: Mapping[str, Any], groups: Sequence[Sequence[range]]
) -> list[float]:
    """The mean log-probability of the words of each group; NaN for none."""
    logits = model(**inputs, use_cache=False).logits[0]
    ids = inputs["input_ids"][0]
    return [
        float(
            np.mean(
                [
                    sum(float(logits[i - 1].float().log_softmax(-1)[ids[i]]) for i in positions)
                    for positions in group
                ]
            )
        )
        if group
        else float("nan")
        for group in groups
    ]
