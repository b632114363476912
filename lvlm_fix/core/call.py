"""`Call`: the arguments of one forward, by meaning; their names differ between releases."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lvlm_fix.errors import InputError

__all__ = ["Call", "Signature", "cache_in", "can_go_back", "own_rows", "rows_of"]

# arguments of a forward that are not about the photo
MINE = ("attention_mask", "cache_position", "input_ids", "inputs_embeds", "labels", "position_ids",
        "return_dict", "use_cache", "output_attentions", "output_hidden_states")  # fmt: skip


class Signature:
    """The parameters of a model's forward, and the name under which it takes a cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        found = inspect.signature(type(model).forward).parameters
        self.names = tuple(found)[1:]
        caches = [name for name, one in found.items() if "Cache" in str(one.annotation)]
        self.cache = caches[0] if caches else ""

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """The call with these arguments."""
        return Call(dict(zip(self.names, args, strict=False)) | dict(kwargs))


@dataclass(frozen=True, eq=False)  # one call is no other
class Call:
    """The arguments of one forward, by the names they came with."""

    given: dict[str, Any]

    @property
    def ids(self) -> Tensor | None:
        """Token ids, batch count."""
        return self.given.get("input_ids")

    @property
    def cache(self) -> Cache | None:
        """The cache, whatever its name."""
        return cache_in(self.given)

    @property
    def labelled(self) -> bool:
        """Whether a loss is asked for."""
        return self.given.get("labels") is not None

    def about_photo(self) -> dict[str, Any]:
        """Pixels, their sizes, token types, `logits_to_keep`: everything but text and cache."""
        return {
            name: value
            for name, value in self.given.items()
            if name not in MINE and value is not None and not isinstance(value, Cache)
        }

    def valid(self, ids: Tensor) -> Tensor | None:
        """Which of these tokens are not padding: batch count; None: all.

        From a mask of two axes, or from the diagonal of a prepared one of four. Raises `InputError`
        for a mask in blocks.
        """
        mask = self.given.get("attention_mask")
        if isinstance(mask, dict):
            mask = next((m for m in mask.values() if m is not None), None)
        if isinstance(mask, BlockMask):
            raise InputError(
                "a block mask does not say what is padding: pass the 2-D mask, or use a "
                "dynamic cache"
            )
        if not isinstance(mask, Tensor):
            return None
        if mask.ndim == 2:
            return mask[:, -ids.shape[1] :].bool()
        own = mask[:, 0].diagonal(dim1=-2, dim2=-1)[:, : ids.shape[1]]
        own = own.bool() if own.dtype == torch.bool else own >= 0
        return own.expand(len(ids), -1)


def cache_in(values: Mapping[str, Any] | tuple[Any, ...]) -> Cache | None:
    """The cache among a forward's arguments or outputs."""
    found = values.values() if isinstance(values, Mapping) else values
    return next((value for value in found if isinstance(value, Cache)), None)


def rows_of(given: Mapping[str, Any], rows: Int[Tensor, " row"]) -> dict[str, Any]:
    """What some rows of a batch need to continue after their prompt: masks and positions. The cache
    stays as it is.
    """

    def cut(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if name == "position_ids":
            return value.index_select(-2, rows.to(value.device))
        whole = not name.endswith(("attention_mask", "token_type_ids"))
        return value if whole else value.index_select(0, rows.to(value.device))

    return {name: cut(name, value) for name, value in given.items()}


def own_rows(given: Mapping[str, Any], rows: Int[Tensor, " row"]) -> dict[str, Any]:
    """`rows_of`, with a copy of the cache that holds only these rows."""
    found = rows_of(given, rows)
    for name, value in found.items():
        if isinstance(value, Cache):
            found[name] = copy.deepcopy(value)
            found[name].batch_select_indices(rows)
    return found


def can_go_back(cache: Cache | None) -> bool:
    """Whether a cache keeps every key, so that it can be cut to an earlier token."""
    return cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers)
