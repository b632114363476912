"""Grounding: how far each word of a finished text rests on the picture, and where the model looked
for it.

Two parallel passes over prompt + text, one with the image and one with its tokens deleted
(positions contiguous), give every token's value at once. The row that *predicts* a token is its
row. The model is measured unmodified, so a text may come from anywhere: from the model, from a
fixed one, or from a person.

Source: T-VHD is He et al., arXiv 2412.13949, eq. 5 (VHD as in eq. 4, without the outlier rule of
eq. 6); k is not given there. A word's T-VHD is the mean over its tokens, its log-probabilities are
sums: ours.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from string import punctuation as PUNCTUATION
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.ask.asker import Asker
from lvlm_fix.core.attached import Attached, is_attached
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.rows import row_logits, row_options
from lvlm_fix.errors import InputError, ModelError, SettingError
from lvlm_fix.families import family_of
from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.models import prepare
from lvlm_fix.objects import coco

__all__ = [
    "SIGNALS",
    "Grounding",
    "Recorder",
    "Word",
    "ground",
    "measure",
    "passing",
    "t_vhd",
    "weak",
    "words_of",
]

SIGNALS = ("t_vhd", "log_probability", "image_gain")
SIGNAL, K = (
    "log_probability",
    1,
)  # ours: what told invented object words best, docs/log.md 2026-11-24


@dataclass(frozen=True)
class Word:
    """One word of a text: pieces joined at blanks, without the punctuation around it."""

    text: str
    start: int  # characters of the text, end exclusive
    end: int
    tokens: tuple[int, int]  # first token and the one behind the last


@dataclass(frozen=True)
class Grounding:
    """What two passes over a finished text give. `tokens` counts the text's tokens, not the
    prompt's.
    """

    text: str
    words: tuple[Word, ...]
    vhd: Float[
        Tensor, "tokens layers heads"
    ]  # distance of head outputs with and without image, unitless
    log_probability: Float[Tensor, " tokens"]  # natural, with image
    image_gain: Float[Tensor, " tokens"]  # log-probability with image minus without
    looks: Float[Tensor, "tokens layers heads image"] | None = (
        None  # attention on the image tokens, fraction 0–1
    )
    grid: tuple[int, int] | None = (
        None  # rows and columns of patches that the first rows × columns image tokens form
    )
    ask: Mapping[int, float] | None = (
        None  # word -> log-odds of Yes, for object words; None: not asked
    )

    def t_vhd(self, k: int = K) -> Float[Tensor, " tokens"]:
        """T-VHD of every token: over the layers, the sum of the k largest VHD."""
        return t_vhd(self.vhd, k)

    def scores(self, signal: str = SIGNAL, k: int = K) -> list[float]:
        """One number a word, larger where the word rests more on the picture; `signal` is one of
        `SIGNALS`.
        """
        if signal not in SIGNALS:
            raise SettingError(f"signal must be one of {', '.join(SIGNALS)}, got {signal!r}")
        if signal == "t_vhd":
            return [float(part.mean()) for part in self._by_word(self.t_vhd(k))]
        return [float(part.sum()) for part in self._by_word(getattr(self, signal))]

    def _by_word(self, values: Float[Tensor, " tokens"]) -> list[Tensor]:
        return [values[slice(*word.tokens)] for word in self.words]

    def heads(self, word: int) -> Float[Tensor, "layers heads"]:
        """VHD of every head for one word: the mean over its tokens."""
        return self.vhd[slice(*self.words[word].tokens)].mean(0)

    def look(self, word: int, heads: Sequence[tuple[int, int]]) -> Float[Tensor, "rows columns"]:
        """Where these heads (layer, head) looked for one word: mean attention per patch, fraction
        0–1.
        """
        if self.looks is None or self.grid is None:
            raise InputError(
                "where the model looked was not recorded: ground the text with looks=True"
            )
        layers, numbers = (torch.tensor(part) for part in zip(*heads, strict=True))
        rows, columns = self.grid
        part = self.looks[slice(*self.words[word].tokens)][:, layers, numbers, : rows * columns]
        return part.float().mean((0, 1)).reshape(rows, columns)

    def as_dict(self, k: int = K) -> dict[str, Any]:
        """Ready for JSON: every word with its span, its signals, and whether it is weak by the
        default one.
        """
        columns = {signal: self.scores(signal, k) for signal in SIGNALS}
        lowest = weak(columns[SIGNAL])
        words = [
            {"word": word.text, "start": word.start, "end": word.end}
            | {signal: round(values[i], 5) for signal, values in columns.items()}
            | {"weak": lowest[i]}
            | ({} if self.ask is None else {"ask": self.ask.get(i)})
            for i, word in enumerate(self.words)
        ]
        return {"signal": SIGNAL, "k": k, "words": words}


# formulas
# ----------------------------------------------------------------------------------------------


def t_vhd(vhd: Float[Tensor, "tokens layers heads"], k: int) -> Float[Tensor, " tokens"]:
    """`Σ_layers Σ top-k VHD` (eq. 5). Raises `SettingError` unless 1 <= k <= heads."""
    heads = vhd.shape[-1]
    if not 1 <= k <= heads:
        raise SettingError(f"k must be from 1 to the {heads} heads of a layer, got {k}")
    return vhd.topk(k, dim=-1).values.sum((-1, -2))


def lengths_of(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The length in characters of a stripped text after each of its tokens."""
    whole: str = tokenizer.decode(ids)
    blank = len(whole) - len(whole.lstrip())
    return [max(0, len(tokenizer.decode(ids[: i + 1])) - blank) for i in range(len(ids))]


def words_of(lengths: Sequence[int], text: str) -> tuple[Word, ...]:
    """The words of `text`: what stands between blanks, less the punctuation around it.

    `lengths` holds the length of the text after each of its tokens; a word's tokens are those that
    add to it. A token that completes a character, and so adds no length, belongs to the word before
    it.
    """
    ends = list(accumulate(reversed(lengths), min))[
        ::-1
    ]  # half a character may decode to more than the whole
    words: list[Word] = []
    place = 0
    for piece in text.split():
        place = text.index(piece, place)
        core = piece.strip(PUNCTUATION) or piece
        start = place + piece.index(core)
        end = start + len(core)
        place += len(piece)
        words.append(
            Word(
                core,
                start,
                end,
                (
                    bisect_right(ends, start),
                    max(bisect_left(ends, end) + 1, bisect_right(ends, end)),
                ),
            )
        )
    return tuple(words)


def weak(scores: Sequence[float], share: float = 0.25) -> list[bool]:
    """Which words are weakly grounded: the lowest `share` of a text's words."""
    limit = sorted(scores)[max(0, math.ceil(len(scores) * share) - 1)] if scores else 0.0
    return [score <= limit for score in scores]


# passes
# ----------------------------------------------------------------------------------------------


class Recorder:
    """Stands in an attention module's place for a fix: keeps what some rows of one sample give,
    edits nothing.
    """

    def __init__(
        self, rows: Int[Tensor, " rows"], image: Int[Tensor, " image"] | None = None
    ) -> None:
        self.rows, self.image = rows, image
        self.outputs: dict[int, Tensor] = {}  # by layer: rows heads dim
        self.looks: dict[int, Tensor] = {}  # by layer: rows heads image

    def attend(
        self, plain: Attend, module: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        output, weights = plain(module, *args, **kwargs)  # batch query heads dim
        layer: int = module.layer_idx  # type: ignore[assignment]
        rows = self.rows.to(output.device)
        self.outputs[layer] = output[0, rows].float()
        if self.image is not None:
            query, key, _, *rest = args
            mask = rest[0] if rest else kwargs.get("attention_mask")
            some, length = query.index_select(2, rows), query.shape[2]
            logits = row_logits(some, key, mask, rows, length, **row_options(module, kwargs))
            self.looks[layer] = logits.softmax(-1)[0, :, :, self.image.to(logits.device)].transpose(
                0, 1
            )
        return output, weights


def passing(model: PreTrainedModel, recorder: Recorder, run: Any) -> Any:
    """`run()` with the head outputs recorded; the model is left as it was."""
    family, attached = family_of(model), Attached()
    if is_attached(family.decoder):
        raise ModelError(
            "this model is fixed; grounding measures the unmodified one: leave the fix first"
        )
    try:
        sites = dict.fromkeys(family.attentions, recorder)
        attached.attention(model, family.decoder, family.config_key, sites)
        return run()
    finally:
        attached.undo()


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    ids: Int[Tensor, " tokens"],
    *,
    looks: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The two passes, for the inputs of one prompt with an image and the ids of a finished text.

    Returns VHD (tokens layers heads), log-probability with image and its gain by the image
    (tokens), and with `looks` the attention on the image tokens (tokens layers heads image,
    float16, on the CPU).
    Raises `InputError` (several samples, no image, no text) and `ModelError`.
    """
    family = family_of(model)
    prompt: Tensor = inputs["input_ids"]
    if len(prompt) != 1 or not len(ids):
        raise InputError(
            f"grounding takes one prompt and a text, got {len(prompt)} prompts and {len(ids)}"
            " tokens"
        )
    full = torch.cat((prompt, ids.to(prompt.device)[None]), dim=1)
    is_image = torch.isin(full[0], torch.tensor(family.image_tokens, device=full.device))
    if not is_image.any():
        raise InputError("the prompt has no image, so nothing can be said of what rests on it")
    more: dict[str, Any] = dict(inputs) | {
        "input_ids": full,
        "attention_mask": torch.ones_like(full),
    }
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            more[name] = torch.cat((inputs[name], inputs[name].new_zeros(1, len(ids))), dim=1)
    rows = torch.arange(prompt.shape[1] - 1, full.shape[1] - 1, device=full.device)
    seen = Recorder(rows, is_image.nonzero().flatten() if looks else None)
    with_image = passing(model, seen, lambda: model(**more, use_cache=False).logits[0, rows])
    short = full[:, ~is_image]
    back = rows - int(is_image.sum())
    blind = Recorder(back)
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    hidden = passing(
        model,
        blind,
        lambda: family.decoder(
            inputs_embeds=embeddings(short),
            attention_mask=torch.ones_like(short),
            position_ids=torch.arange(short.shape[1], device=short.device)[None],
            use_cache=False,
        ).last_hidden_state[0, back],
    )
    picked = torch.arange(len(ids)), ids.cpu()
    known = with_image.float().log_softmax(-1).cpu()[picked]
    unseen = head(hidden).float().log_softmax(-1).cpu()[picked]
    layers = sorted(seen.outputs)
    vhd = torch.stack(
        [
            vision_aware_divergence(seen.outputs[i], blind.outputs[i], outliers=False).cpu()
            for i in layers
        ],
        dim=1,
    )
    found = torch.stack([seen.looks[i].half().cpu() for i in layers], dim=1) if looks else None
    return vhd, known, known - unseen, found


def ground(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    image: Image.Image,
    prompt: str,
    text: str | Sequence[int],
    *,
    looks: bool = False,
    asker: Asker | None = None,
) -> Grounding:
    """Measure every word of a finished text: its string, or (exact for generated ones) the ids of
    its tokens.

    With `looks` the attention of every head on the image is kept for each token; with an `asker`
    the model is asked about each object word. Raises `InputError`, `ModelError`.
    """
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: every processor of these models has one
    ids = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        if isinstance(text, str)
        else list(text)
    )
    ids = [i for i in ids if i not in tokenizer.all_special_ids]
    if not ids:
        raise InputError("the text is empty")
    inputs = prepare(model, processor, [image], [prompt])
    vhd, known, gain, found = measure(model, inputs, torch.tensor(ids), looks=looks)
    lengths, clean = lengths_of(tokenizer, ids), tokenizer.decode(ids).strip()
    grid = patch_grid(model, inputs, found.shape[-1]) if found is not None else None
    words = words_of(lengths, clean)
    answers = None if asker is None else _ask(asker, image, clean, words)
    return Grounding(clean, words, vhd, known, gain, found, grid, answers)


def _ask(asker: Asker, image: Image.Image, text: str, words: Sequence[Word]) -> dict[int, float]:
    """The answers about the object words of a text, by the number of each word they cover."""
    spots = coco(text)
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
    """Rows and columns of the patches that the first image tokens stand for; None where they form
    no known grid.

    Qwen's processors give the grid; a square number is a square; tiled models begin with the whole
    photo's own grid.
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
