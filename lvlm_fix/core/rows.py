"""The attention of a few rows, in plain products: logits, what hides keys from them, and outputs.

The wrapped implementation (SDPA, Flash, flex, eager) serves every row of a prefill. For the rows
that an edit touches, logits and weights are recomputed in plain products and only the *difference*
`(A' − A)·V` is added. So nothing of size query × key is held for the rows of the image. A decoding
step has one row: if it is edited, its output is just `A'·V`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from lvlm_fix.core.passes import Pass
from lvlm_fix.errors import InputError, ModelError

__all__ = [
    "edited_rows",
    "row_logits",
    "row_options",
    "seen_logits",
    "softmax",
    "weigh",
]


def row_options(module: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What `row_logits` needs to know about one call of the attention interface: scale, cap,
    window, direction. Raises `ModelError` if the call has something that it does not know, and
    `InputError` for dropout.
    """
    for name in ("s_aux", "position_bias"):  # learned sinks; relative positions
        if kwargs.get(name) is not None:
            raise ModelError(f"attention with {name} cannot be edited by rows")
    if kwargs.get("dropout"):
        raise InputError("attention with dropout cannot be edited by rows: call model.eval()")
    causal = kwargs.get("is_causal")
    return {
        "scaling": kwargs.get("scaling"),
        "softcap": kwargs.get("softcap"),
        "sliding_window": kwargs.get("sliding_window"),
        "causal": getattr(module, "is_causal", True) if causal is None else causal,
    }


def row_logits(
    query: Float[Tensor, "batch heads query dim"],
    key: Float[Tensor, "batch key_heads key dim"],
    mask: object,
    rows: Int[Tensor, " query"] | None,
    length: int,
    *,
    scaling: float | None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    causal: bool = True,
) -> Float[Tensor, "batch heads query key"]:
    """Attention logits of some rows, after scaling and mask; masked keys hold −inf. Always float32.

    `rows` are the rows' numbers among the `length` queries of this pass (None: all of them). `mask`
    is whatever the wrapped implementation was given (None, 2-D, 4-D of booleans, 4-D additive, or
    flex attention's blocks). A `scaling` of None is 1/√dim. Rows that are not `causal` see all keys
    that the mask allows, later ones too.
    """
    logits = raw_logits(query, key, scaling, softcap)
    hidden = masking(mask, rows, length, key, sliding_window, causal)
    return logits if hidden is None else logits + hidden


def raw_logits(
    query: Float[Tensor, "batch heads query dim"],
    key: Float[Tensor, "batch key_heads key dim"],
    scaling: float | None,
    softcap: float | None = None,
) -> Float[Tensor, "batch heads query key"]:
    """Attention logits after scaling, before any mask. Always float32."""
    batch, heads, n_rows, dim = query.shape
    key_heads, n_keys = key.shape[1], key.shape[2]
    scale = dim**-0.5 if scaling is None else scaling
    # grouped-query without expanding keys, and the scale within the product
    grouped = query.reshape(batch * key_heads, -1, dim)
    keys, nothing = key.flatten(0, 1), query[:1, 0, :1, :1]
    if grouped.shape[1] == 1:  # keys first: on a CPU twice as fast for one row
        logits = torch.baddbmm(nothing, keys, grouped.mT, beta=0, alpha=scale)
    else:
        logits = torch.baddbmm(nothing, grouped, keys.mT, beta=0, alpha=scale)
    logits = logits.view(batch, heads, n_rows, n_keys).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def masking(
    mask: object,
    rows: Int[Tensor, " query"] | None,
    length: int,
    key: Float[Tensor, "batch key_heads key dim"],
    window: int | None,
    causal: bool,
) -> Float[Tensor, "some_batch some_heads query key"] | None:
    """What is added to the logits of some rows: −inf hides a key. None if every key is seen.
    Raises `ModelError` for a mask of an unknown kind.
    """
    n_keys, device = key.shape[2], key.device
    if isinstance(mask, BlockMask):
        samples = torch.arange(len(key), device=device)[:, None, None, None]
        asked = torch.arange(length, device=device) if rows is None else rows
        keys = torch.arange(n_keys, device=device)
        return _hiding(mask.mask_mod(samples, torch.zeros_like(samples), asked[:, None], keys))
    if mask is not None and not isinstance(mask, Tensor):
        raise ModelError(
            f"edits of attention need a mask, found {type(mask).__name__}; load the model with sdpa"
        )
    if mask is None and (length == 1 or not causal) and (window is None or n_keys <= window):
        return None  # one new row sees every key
    if mask is None or mask.ndim == 2:
        allowed = _causal(rows, length, n_keys, window, device) | (not causal)
        if mask is not None:
            allowed = allowed & mask[:, None, None, -n_keys:].bool()
        return _hiding(allowed)
    some = (mask if rows is None else mask.index_select(2, rows))[..., :n_keys]
    if some.dtype == torch.bool:
        return _hiding(some)
    least = torch.finfo(some.dtype).min / 2
    return some.clamp_min(-1e4).float().masked_fill(some < least, -torch.inf)


def _hiding(allowed: Bool[Tensor, "*rest query key"]) -> Float[Tensor, "*rest query key"]:
    """0 where a key is seen, −inf where it is not."""
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill_(~allowed, -torch.inf)


def seen_logits(
    now: Pass, rows: Tensor, query: Tensor, key: Tensor, mask: object, options: Mapping[str, Any]
) -> Float[Tensor, "batch heads query key"]:
    """`row_logits` of the rows that may be edited; what hides keys is built once for layers with
    the same mask.
    """
    logits = raw_logits(rows, key, options["scaling"], options["softcap"])
    window, causal = options["sliding_window"], options["causal"]
    kind = "hiding", key.shape[2], window, causal, key.device
    if kind not in now.masks or now.masks[kind][0] is not mask:
        index = None if now.index is None else now.index.to(key.device)
        now.masks[kind] = mask, masking(mask, index, query.shape[2], key, window, causal)
    hidden = now.masks[kind][1]
    return logits if hidden is None else logits + hidden


def _causal(
    rows: Tensor | None, length: int, n_keys: int, window: int | None, device: torch.device
) -> Bool[Tensor, "1 1 query key"]:
    """Which keys the rows may see: their own and those before, within the window."""
    rows = torch.arange(length, device=device) if rows is None else rows
    behind = (rows + n_keys - length)[:, None] - torch.arange(n_keys, device=device)  # query key
    allowed = behind >= 0
    if window is not None:
        allowed = allowed & (behind < window)
    return allowed[None, None]


def weigh(
    weights: Float[Tensor, "batch heads query key"], value: Float[Tensor, "batch key_heads key dim"]
) -> Float[Tensor, "batch query heads dim"]:
    """`weights · value`, with grouped-query values left unexpanded."""
    batch, heads, n_rows, n_keys = weights.shape
    key_heads, dim = value.shape[1], value.shape[-1]
    grouped = weights.to(value.dtype).reshape(batch, key_heads, heads // key_heads * n_rows, n_keys)
    return (grouped @ value).reshape(batch, heads, n_rows, dim).transpose(1, 2)


def softmax(
    logits: Float[Tensor, "batch heads query key"], now: Pass
) -> Float[Tensor, "batch heads query key"]:
    """The weights; a padding row of a prompt, which sees nothing, has none."""
    return logits.softmax(-1).nan_to_num(0.0) if now.prompt_rows else logits.softmax(-1)


def edited_rows(now: Pass) -> Int[Tensor, " query"]:
    """The rows that may be edited, by number."""
    return torch.zeros_like(now.text.position) if now.index is None else now.index
