"""The edits of the prompt's cached keys and values, seen by its last row and all rows after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from lvlm_fix.core.at import AtLayer
from lvlm_fix.core.method import Method
from lvlm_fix.core.rows import row_logits, weigh
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import InputError, SettingError

__all__ = ["PromptCache", "settle"]

ROWS = ("attention_logits", "attention_weights")


class PromptCache:
    """The methods that edit the cached prompt in one layer, in order.

    Raises `SettingError` if others edit rows of the attention, which would see the old keys.
    """

    def __init__(self, methods: tuple[tuple[int, Method], ...]) -> None:
        self.acting = [(i, m) for i, m in methods if "prompt_cache" in m.edits()]
        for _, other in methods if self.acting else ():
            if rows := [place for place in ROWS if place in other.edits()]:
                mine = self.acting[0][1].method_name()
                raise SettingError(
                    f"{mine} changes cached keys, and {other.method_name()} edits {rows[0]} by the "
                    "old ones: name one of them"
                )

    def edit(
        self, at: AtLayer, query: Tensor, key: Tensor, value: Tensor, mask: Any,
        options: Mapping[str, Any], output: Tensor,
    ) -> Tensor:  # fmt: skip
        """The output; rows from the prompt's last one on see the edited keys and values."""
        now = at.now
        if not self.acting or now is None or not now.prompt_rows or not now.complete:
            return output
        if now.index is None or now.text.settled:  # a further turn: the first prompt was edited
            return output
        keys, values = key, value
        shown = now.text.with_image.to(key.device)[:, None, None, None]
        for number, method in self.acting:
            new = method.prompt_cache(keys, values, at)
            if new[0] is not keys or new[1] is not values:
                keys, values = (
                    torch.where(shown, one.to(old.dtype), old)
                    for one, old in zip(new, (keys, values), strict=True)
                )
                now.changed.append((number, now.prompt_rows))
        if keys is key and values is value:
            return output
        now.text.rewritten[at.layer] = keys, values
        final = now.final.any(0)
        rows = now.index[final].to(query.device)
        logits = row_logits(
            query.index_select(2, rows), keys, mask, rows, query.shape[2], **options
        )
        seen = weigh(logits.softmax(-1).nan_to_num(0.0), values).to(output.dtype)
        own = now.final[:, final].to(output.device)[..., None, None]
        before = output.index_select(1, rows)
        return output.index_copy(1, rows, torch.where(own, seen, before))


def settle(now: Pass, cache: Cache | None) -> None:
    """After a pass: put what was edited into the cache, in tensors of its own.

    Raises `InputError` for a cache whose layers do not keep every key unchanged.
    """
    text = now.text
    if not text.rewritten:
        return
    for number, (keys, values) in text.rewritten.items() if cache is not None else ():
        held: Any = cache.layers[number] if cache is not None else None
        if type(held) in (DynamicLayer, DynamicSlidingWindowLayer):
            kept = slice(keys.shape[2] - held.keys.shape[2], None)  # what a window holds
            held.keys, held.values = keys[:, :, kept], values[:, :, kept]
        elif type(held) is StaticLayer:
            assert held.keys is not None and held.values is not None  # the prompt has passed
            held.keys[:, :, : keys.shape[2]].copy_(keys)
            held.values[:, :, : values.shape[2]].copy_(values)
        else:
            raise InputError(
                f"a {type(held).__name__} does not keep every key as it is, so the prompt's cannot "
                "be edited: use a dynamic cache"
            )
    text.rewritten.clear()
    text.settled = True
