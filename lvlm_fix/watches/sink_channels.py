"""Channels of the hidden state that grow massive on attention sinks: published ones, or a model's
own (arXiv 2503.03321).
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from lvlm_fix.families import Family, entering

__all__ = ["discover_channels", "published_channels"]

# (model type, hidden size, layers, intermediate size) of the decoder -> channels, from the paper
PUBLISHED = {
    ("llama", 4096, 32, 11008): (1415, 2533),  # LLaMA-2-7B, so Vicuna and LLaVA-1.5-7B
    ("llama", 5120, 40, 13824): (2100, 4743),  # LLaMA-2-13B
    ("qwen2_vl_text", 3584, 28, 18944): (458, 2570),  # Qwen2-VL-7B
    ("internlm2", 4096, 32, 14336): (3584,),  # InternVL2-8B
}


def published_channels(config: PretrainedConfig) -> tuple[int, ...]:
    """The sink channels the paper gives for a decoder of this type and size; empty for others."""
    settings = config.to_dict()
    size = tuple(
        settings.get(key)
        for key in ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")
    )
    return next((found for of, found in PUBLISHED.items() if of == size), ())


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

    def keep(_: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
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
