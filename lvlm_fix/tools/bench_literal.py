"""The same edits as research code computes them: eager attention, the full map of every row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lvlm_fix.attach import Fix
from lvlm_fix.core.layer import Layer
from lvlm_fix.core.text import Pass
from lvlm_fix.method import AtLayer, Method

__all__ = ["Literal"]


class _LiteralLayer(Layer):
    """A layer that holds the full map of every row, as research code computes it."""

    def _edit(
        self, plain: Callable[..., Any], module: nn.Module, now: Pass, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if not (self._logits or self._weights):
            return super()._edit(plain, module, now, *args, **kwargs)
        query, key, value, mask = args[:4]
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ keys.transpose(2, 3) * kwargs["scaling"] + mask[..., : keys.shape[2]]
        at = self.at(now, key.shape[2], query.device)
        for number, method in self._logits:
            new = method.attention_logits(logits, self._for(at, now, method))
            logits = self._accept_rows(at, now, number, method, logits, new)
        weights = logits.softmax(-1, dtype=torch.float32).to(query.dtype)
        for number, method in self._weights:
            new = method.attention_weights(weights, self._for(at, now, method))
            weights = self._accept_rows(at, now, number, method, weights, new)
        output = (weights @ values).transpose(1, 2).contiguous()
        return self._edit_heads(at, now, output), weights

    def _accept_rows(
        self, at: AtLayer, now: Pass, number: int, method: Method, old: Tensor, new: Tensor
    ) -> Tensor:
        """A full map with an edit kept in the rows it may touch."""
        if now.index is None:
            return self._accept(at, now, number, method, old, new)
        index = now.index
        some = old.index_select(2, index), new.index_select(2, index)
        return old.index_copy(2, index, self._accept(at, now, number, method, *some))


class Literal(Fix):
    """The same edits with the full map of every row; wants eager attention."""

    layer = _LiteralLayer
