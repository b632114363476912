"""Attention sinks: hidden-state channels that grow massive on them, and the test by channel (arXiv
2503.03321).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, linalg, nn
from transformers import PretrainedConfig

from lvlm_fix.families import Family, entering

__all__ = ["discover_channels", "is_sink", "published_channels", "sink_masks"]

# (model type, hidden size, layers, vocabulary without added tokens) of the decoder -> channels,
# from the paper
PUBLISHED = {
    ("llama", 4096, 32, 11008): (1415, 2533),  # LLaMA-2-7B, so Vicuna and LLaVA-1.5-7B
    ("llama", 5120, 40, 13824): (2100, 4743),  # LLaMA-2-13B
    ("qwen2_vl_text", 3584, 28, 18944): (458, 2570),  # Qwen2-VL-7B
    ("internlm2", 4096, 32, 14336): (3584,),  # InternVL2-8B
}


def published_channels(config: PretrainedConfig) -> tuple[int, ...]:
    """The sink channels the paper gives for a decoder of this type and size; empty where it gives
    none.
    """
    settings = config.to_dict()
    size = tuple(
        settings.get(key)
        for key in ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")
    )
    return next((found for of, found in PUBLISHED.items() if of == size), ())


def is_sink(
    hidden: Float[Tensor, "batch query width"], channels: Int[Tensor, " channels"], threshold: float
) -> Float[Tensor, "batch query"]:
    """1 where `max_{d ∈ channels} |x_d| / RMS(x) ≥ threshold`, else 0, for the hidden states that
    enter a layer.
    """
    norm = linalg.vector_norm(hidden.float(), dim=-1)  # RMS · √width
    peak = linalg.vector_norm(hidden.index_select(-1, channels).float(), math.inf, dim=-1)
    return (peak / norm).ge_(threshold / math.sqrt(hidden.shape[-1]))


def sink_masks(
    image: Bool[Tensor, "batch key"], sinks: Shaped[Tensor, "batch key"]
) -> Float[Tensor, "batch 3 key"]:
    """Of every key, 1 or 0: is it an image token, is it a sink, is it an image token without being
    a sink.
    """
    inside, sinks = image.float(), sinks.float()
    return torch.stack((inside, sinks, inside * (1 - sinks)), dim=1)


@torch.no_grad()
def discover_channels(
    family: Family, first: Int[Tensor, "batch 1"], threshold: float
) -> tuple[int, ...]:
    """Channels with `|x_d| / RMS(x) > threshold` on the first token in more than half of the middle
    layers.

    `first` holds the first token of a few prompts; a first token sees only itself, so one token is
    enough. Ours: no rule is published. Empty for a model without massive channels.
    """
    entered: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(entering(args, kwargs))

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in family.layers]
    try:
        embeddings = family.decoder.get_input_embeddings()(first)
        family.decoder(inputs_embeds=embeddings, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    quarter = len(entered) // 4
    middle = torch.stack(
        [hidden[:, 0].float().cpu() for hidden in entered[quarter : len(entered) - quarter]]
    )
    ratio = middle.abs() / middle.square().mean(-1, keepdim=True).sqrt()  # layers batch width
    often = (ratio > threshold).float().mean((0, 1)) > 0.5
    return tuple(often.nonzero().flatten().tolist())
