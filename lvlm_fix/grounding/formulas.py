"""The published scores of a word, as formulas on what a pass gives. There is one number per token;
a token's row is the row that *predicts* it. Larger means better grounded: scores that the papers
define for invention have their sign reversed.

T-VHD    He et al., arXiv 2412.13949, eq. 5 (VHD as in eq. 4, without the outlier rule of eq. 6).
SVAR     Jiang et al., CVPR 2025, arXiv 2411.16724: layers 5 to 18 of 32, counted from 0.
PAS      Hoang-Xuan et al., CVPR 2026, arXiv 2511.11502: layer 0.
IC       Jiang et al., ICLR 2025, arXiv 2410.02762: internal confidence.
GLSim    Park and Li, NeurIPS 2025, arXiv 2508.19972, and its code (6a782ed) for w, K and layers.

Ours: the same shares of the depth, and of the image's rows, in models of another size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lvlm_fix.errors import SettingError

__all__ = ["glsim", "internal_confidence", "pas", "svar", "t_vhd"]

Head = Callable[[Tensor], Tensor]
"""Hidden states -> logits: the output embeddings, without the final norm."""


def t_vhd(vhd: Float[Tensor, "tokens layers heads"], k: int) -> Float[Tensor, " tokens"]:
    """`Σ_layers Σ top-k VHD` (eq. 5). Raises `SettingError` unless 1 <= k <= heads."""
    heads = vhd.shape[-1]
    if not 1 <= k <= heads:
        raise SettingError(f"k must be from 1 to the {heads} heads of a layer, got {k}")
    return vhd.topk(k, dim=-1).values.sum((-1, -2))


def svar(looks: Float[Tensor, "tokens layers heads image"]) -> Float[Tensor, " tokens"]:
    """Attention on the image: sum over the middle layers of the mean over heads."""
    layers = looks.shape[1]
    middle = slice(round(layers * 5 / 32), round(layers * 19 / 32))
    return looks[:, middle].float().sum(-1).mean(-1).sum(-1)


def pas(written: Float[Tensor, "tokens layers heads"]) -> Float[Tensor, " tokens"]:
    """Less the attention of layer 0 on what was written before, its own row's key included, as the
    mean over heads.
    """
    return -written[:, 0].mean(-1)


def internal_confidence(
    states: Sequence[Float[Tensor, "image width"]], head: Head, ids: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """The largest probability that any image row of any layer, read by the head alone, gives to a
    token. `states` are the embeddings and what leaves each layer, the last behind the final norm.
    """
    read = (head(layer).float().softmax(-1)[:, ids].amax(0).cpu() for layer in states)
    return torch.stack(list(read)).amax(0)


def glsim(
    early: Float[Tensor, "rows width"],
    last: Float[Tensor, "rows width"],
    head: Head,
    rows: Int[Tensor, " tokens"],
    image: Int[Tensor, " image"],
    ids: Int[Tensor, " tokens"],
    *,
    weight: float = 0.6,
    share: float = 32 / 576,
) -> Float[Tensor, " tokens"]:
    """`w · cos(prompt's end, token) + (1 − w) · mean cos(token, its likeliest image rows)`.

    `last` is behind the final norm, `early` what enters the last layer. The code takes the prompt's
    end from `early` and the token from `last` for the first part, and the other way round for the
    second; `share` of the image's rows are the likeliest.
    """
    whole = cosine_similarity(early[rows[:1]].float(), last[rows].float(), dim=-1)
    patches = last[image]
    likely = head(patches).float().softmax(-1)[:, ids]  # image tokens
    best = likely.topk(max(1, round(share * len(image))), dim=0).indices  # k tokens
    near = cosine_similarity(early[rows].float(), patches[best].float(), dim=-1).mean(0)
    return (weight * whole + (1 - weight) * near).cpu()
