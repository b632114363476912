"""`HiddenKeys`: one pass of a branch whose later layers see part of the image's keys."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from lvlm_fix.core.at import Host
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.rows import row_logits, row_options, weigh
from lvlm_fix.core.text import Pass, wide
from lvlm_fix.errors import InputError, ModelError

__all__ = ["HiddenKeys"]

BLOCK = 128  # rows of attention held at once


class HiddenKeys:
    """Attention that leaves, behind `layer`, all text and `share` of the image: the keys that got
    least in `layer`, as a mean over heads, from the last row of the prompt (for rows of the prompt)
    or from the row itself (for rows behind it).

    Raises `InputError` for part of a prompt, `ModelError` where some layer's attention is not seen.
    """

    def __init__(self, now: Pass, share: float, layer: int) -> None:
        if now.prompt_rows and now.last is None:
            raise InputError(
                "which rows see the image is known only at the prompt's end, but this prompt came"
                " in parts: leave prefill_chunk_size off"
            )
        self._layer, self._reached = layer, set[int]()
        self._image = wide(now.text.shown[:, : now.end], now.end)  # batch columns
        count = (self._image.sum(-1) * share).round().long()
        self._count = count.clamp_min(1)
        rows = torch.arange(now.count).repeat(now.text.batch, 1)
        if now.last is not None:
            rows[:, : now.prompt_rows] = now.last.cpu()[:, None]
        self._rows, index = rows.unique(return_inverse=True)  # the rows that choose, and whose
        self._index = index[..., None].expand(-1, -1, now.end)  # batch query columns
        self._hidden: Tensor | None = None  # batch query columns

    @contextmanager
    def within(self, host: Host) -> Generator[None]:
        """A context for the one pass."""
        host.taps.append(self._tap)
        try:
            yield
        finally:
            host.taps.remove(self._tap)
        if missing := {*range(self._layer, len(host.family.layers))} - self._reached:
            raise ModelError(
                f"{type(host.model).__name__}: the attention of layer {min(missing)} was not seen, "
                "so that no keys can be hidden from it"
            )

    def _tap(self, layer: int, plain: Attend) -> Attend:
        self._reached.add(layer)

        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor | None]:
            mask = rest[0] if rest else kwargs.get("attention_mask")
            if layer == self._layer:
                self._choose(query, key, mask, row_options(module, kwargs))
            if layer <= self._layer:
                return plain(module, query, key, value, *rest, **kwargs)
            return self._attend(query, key, value, mask, row_options(module, kwargs)), None

        return attend

    def _choose(self, query: Tensor, key: Tensor, mask: object, options: Mapping[str, Any]) -> None:
        rows, on = self._rows.to(query.device), query.device
        some = query.index_select(2, rows)
        logits = row_logits(some, key, mask, rows, query.shape[2], **options)
        got = logits.softmax(-1).nan_to_num(0.0).mean(1)  # batch row key, the last columns
        image, columns = self._image.to(on)[:, None], self._image.shape[1]
        got = pad(got, (columns - got.shape[2], 0)).masked_fill(~image, torch.inf)
        rank = got.argsort(dim=-1, stable=True).argsort(-1)
        hidden = image & (rank >= self._count.to(on)[:, None, None])
        self._hidden = hidden.gather(1, self._index.to(on))

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: object, options: Mapping[str, Any]
    ) -> Float[Tensor, "batch query heads dim"]:
        """The attention without the hidden keys; a row that sees nothing else gives zero."""
        assert self._hidden is not None
        hidden = self._hidden.to(query.device)[:, None, :, -key.shape[2] :]
        found = []
        for rows in torch.arange(query.shape[2], device=query.device).split(BLOCK):
            some = query.index_select(2, rows)
            logits = row_logits(some, key, mask, rows, query.shape[2], **options)
            logits = logits.masked_fill(hidden.index_select(2, rows), -torch.inf)
            found.append(weigh(logits.softmax(-1).nan_to_num(0.0), value))
        return torch.cat(found, 1).to(query.dtype)
