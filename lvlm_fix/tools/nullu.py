"""Nullu: take directions of invention out of what the upper MLPs write, in the weights themselves.

Paper    Yang et al., "Nullu: Mitigating Object Hallucinations in Large Vision-Language Models via
         HalluSpace Projection", CVPR 2025, arXiv 2412.13817.
Code     Features, the factor 1/2, no centring, layers and rank are those of the authors' code.
Edits    The weights of the MLPs' last projection in the upper half of the layers.
Departs  The product is made in float32 (the authors' code casts the projection to half precision).
         Other depths than 32 take the upper half (ours). A bias of the projection stays.
Cost     none
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.families import family_of, mlp_of
from lvlm_fix.models import DESCRIBE, open_image, prepare, revision_of
from lvlm_fix.tools.checkpoint import loaded_for, sha256_of, written
from lvlm_fix.tools.effects import continued
from lvlm_fix.tools.folding import owners_of, plain_linear
from lvlm_fix.tools.photos import Broken

__all__ = ["Pair", "directions", "export", "project", "read_pairs", "upper_layers"]

LAST = ("down_proj", "fc2", "w2", "dense_4h_to_h")  # what modeling files call the last projection


class Pair(NamedTuple):
    """A photo, a right caption and one with inventions."""

    image: Image.Image
    value: str
    h_value: str


def read_pairs(
    path: Path, images: Path, only: Container[int] | None = None, broken: Broken | None = None
) -> Iterator[Pair]:
    """Pairs from JSON lines `{"image": file name, "value": right, "h_value": with inventions}`;
    `only` some lines, by number from 1. With `broken`, pairs whose photo cannot be read are left
    out, and noted there.

    Raises `DataError` naming the line that cannot be used.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the pairs {str(path)!r}: {error}") from None
    for number, line in enumerate(lines, 1):
        if only is not None and number not in only:
            continue
        try:
            row = json.loads(line)
            photo, texts = images / row["image"], (row["value"], row["h_value"])
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError("a caption is missing")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a pair of captions ({error!r})") from None
        if not photo.is_file():
            raise DataError(f"{path}, line {number}: there is no photo {str(photo)!r}")
        image = open_image(photo) if broken is None else broken.open(photo)
        if image is not None:
            yield Pair(image, *texts)


def upper_layers(depth: int) -> tuple[int, ...]:
    """The layers that are edited: 16 to 31 of 32."""
    return tuple(range(depth // 2, depth))


def export(
    model: str, out: Path, pairs: Path, images: Path, rank: int = 4, revision: str | None = None
) -> dict[str, Any]:
    """Write `model` with the directions of these pairs taken out to the new folder `out`, at once
    or not at all; returns what `export.json` there holds.

    Raises `DataError` where `out` is there already, and what `directions` and `project` raise.
    """
    loaded, processor = loaded_for(model, out, revision)
    read = list(read_pairs(pairs, images))
    layers = upper_layers(len(family_of(loaded).layers))
    own = loaded.dtype
    loaded.float()  # captions are measured, and weights multiplied, in float32
    project(loaded, directions(loaded, processor, read, layers, rank))
    loaded.to(own)  # pyright: ignore[reportArgumentType]: a decorator hides its signature
    record = {
        "method": "nullu", "model": model, "revision": revision_of(loaded), "rank": rank,
        "layers": list(layers), "pairs": len(read), "pairs_sha256": sha256_of(pairs),
    }  # fmt: skip
    return written(loaded, processor, out, record, _card)


@torch.no_grad()
def directions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    pairs: Iterable[Pair],
    layers: Sequence[int],
    rank: int = 4,
    prompt: str = DESCRIBE,
) -> dict[int, Float[Tensor, "rank width"]]:
    """The first right singular vectors of `(right − invented)/2`, for each layer, float32.

    A text's feature is what leaves the layer (behind the last one, after the final norm), averaged
    over all rows of the pass. Raises
    `DataError` for fewer pairs than `rank`, and where right and invented captions are the same to
    the model.
    """
    if rank < 1:
        raise SettingError(f"rank must be >= 1, got {rank}")
    differences: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for pair in pairs:
        means = [_means(model, processor, pair.image, text, layers, prompt) for text in pair[1:]]
        for layer in layers:
            differences[layer].append((means[0][layer] - means[1][layer]) / 2)
    if (count := len(next(iter(differences.values()), []))) < rank:
        raise DataError(f"{rank} directions need as many pairs of captions, got {count}")
    found = {}
    for layer, rows in differences.items():
        _, sizes, vectors = torch.linalg.svd(torch.stack(rows), full_matrices=False)
        if not sizes[min(rank, len(sizes)) - 1] > 1e-6 * sizes[0] > 0:
            raise DataError(
                f"layer {layer}: the pairs differ in fewer than {rank} directions; give more pairs"
                " or a smaller rank"
            )
        found[layer] = vectors[:rank]
    return found


def _means(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    photo: Image.Image,
    text: str,
    layers: Sequence[int],
    prompt: str,
) -> dict[int, Float[Tensor, " width"]]:
    """What leaves these layers, averaged over the rows of prompt and text."""
    tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one
    inputs = prepare(model, processor, [photo], [prompt])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    more = continued(inputs, torch.tensor([ids], device=inputs["input_ids"].device))
    states = model(**more, use_cache=False, output_hidden_states=True).hidden_states
    return {layer: states[layer + 1][0].float().mean(0).cpu() for layer in layers}


@torch.no_grad()
def project(model: PreTrainedModel, found: dict[int, Float[Tensor, "rank width"]]) -> None:
    """`W ← (I − Σ v vᵀ)·W` for the last projection of each layer's MLP, in place; nothing is
    changed on an error.

    The product is made in float32 and kept in the weight's own type. Raises `ModelError` where a
    projection cannot be found, is quantised or wrapped by an adapter, or is shared.
    """
    blocks, owners = family_of(model).layers, owners_of(model)
    linears = {
        layer: plain_linear(
            mlp_of(blocks[layer]), LAST, f"the last projection of layer {layer}'s MLP", owners
        )
        for layer in found
    }
    for layer, vectors in found.items():
        weight = linears[layer].weight
        along, plain = vectors.to(weight.device, torch.float32), weight.float()
        product = plain - along.T @ (along @ plain)
        linears[layer].weight = nn.Parameter(product.to(weight.dtype), requires_grad=False)


def _card(record: dict[str, Any]) -> str:
    digests = "\n".join(f"- `{name}` {digest}" for name, digest in record["sha256"].items())
    at = f" at revision {record['revision']}" if record["revision"] else ""
    first, last = record["layers"][0], record["layers"][-1]
    return f"""---
base_model: {record["model"]}
library_name: transformers
pipeline_tag: image-text-to-text
---
# {Path(record["model"]).name} with directions of invention taken out

{record["model"]}{at}, with one change: from what the MLPs of layers {first} to {last} (from 0)
write, {record["rank"]} directions are taken out in each layer. Everything else, the processor too,
is the original's, and so is its licence. It loads with plain transformers.

The directions are Nullu's (arXiv 2412.13817): those in which right and invented captions of
{record["pairs"]} photos differ most (pairs sha256 {record["pairs_sha256"]}).

SHA-256 of the weights:

{digests}
"""
