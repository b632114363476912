"""The part of a prompt that every question shares: everything up to the last image token.

Its keys and values are copied from the cache of the text; that cache is never changed. If a
family's keys depend on what follows the image, or if positions are not columns, nothing is shared
and every question is a whole prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lvlm_fix.core.call import Call, cache_in
from lvlm_fix.errors import InputError
from lvlm_fix.families import Family

__all__ = ["Prefix", "by_columns", "prefix_of", "unshared"]


@dataclass(frozen=True)
class Prefix:
    """Everything up to the last image token, right-aligned, for each sample of a batch."""

    ids: Int[Tensor, "batch column"]
    valid: Bool[Tensor, "batch column"]
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values; none where nothing is shared
    photo: Mapping[str, Any]  # pixels and their sizes, for whole prompts

    @property
    def shared(self) -> bool:
        """Whether questions can follow these keys; otherwise each is a whole prompt."""
        return bool(self.layers)

    def cache(self, rows: Int[Tensor, " row"]) -> Cache:
        """A new cache that holds the prefix of these samples."""
        made = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            made.update(keys[rows], values[rows], number)
        return made


def unshared(model: PreTrainedModel, family: Family, cache: Cache | None, given: Any) -> str:
    """Why questions cannot share the prefix; empty if they can."""
    if cache is None:
        return "there is no cache"
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return "its cache has layers that do not keep every key unchanged"
    if family.runs is not model:
        return "its language model generates alone"
    if family.both_ways or any(name.endswith("token_type_ids") for name in given):
        return "rows of its prompt may see what follows them, or positions are not columns"
    if not by_columns(family):
        return "its positions are not columns"
    return ""


def by_columns(family: Family) -> bool:
    """Whether a token's position is the number of tokens before it, image tokens included.

    Models that lay their image tokens out in a grid compute positions themselves.
    """
    return "get_rope_index" not in dir(family.runs.base_model)


def prefix_of(
    model: PreTrainedModel, family: Family, given: Mapping[str, Any], rows: Collection[int]
) -> Prefix:
    """The shared part of a prompt, from the arguments of its forward, cache included.

    `given` may hold a longer text than the prompt, as in `generate` after the last token. Raises
    `InputError` if one of these `rows` has no image.
    """
    call = Call(dict(given))
    ids = call.ids
    if ids is None:
        raise InputError("asking needs input_ids; inputs_embeds alone are not enough")
    image = torch.isin(ids, torch.tensor(family.image_tokens, device=ids.device))
    missing = ~image.any(-1).cpu()
    if bool(missing[list(rows)].any()):
        raise InputError("a prompt has no image, so nothing can be asked about it")
    valid = call.valid(ids)
    valid = torch.ones_like(image) if valid is None else valid
    columns = torch.arange(ids.shape[1], device=ids.device)
    ends = ((columns * image).amax(-1) + 1).tolist()
    width = max(ends)

    def cut(rows: Tensor, axis: int, value: float = 0) -> Tensor:
        """Each sample's columns up to its end, padded on the left to one width."""
        parts = [row.narrow(axis - 1, 0, end) for row, end in zip(rows, ends, strict=True)]
        behind = [0, 0] * (rows.ndim - 1 - axis)
        return torch.stack(
            [pad(p, (*behind, width - e, 0), value=value) for p, e in zip(parts, ends, strict=True)]
        )

    cache = cache_in(given)
    layers: tuple[tuple[Tensor, Tensor], ...] = ()
    if cache is not None and not unshared(model, family, cache, given):
        kept: list[Any] = cache.layers
        layers = tuple((cut(one.keys, 2), cut(one.values, 2)) for one in kept)
    return Prefix(cut(ids, 1), cut(valid, 1), layers, call.about_photo())
