"""`Family`: where a model keeps its image tokens and its decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.errors import ModelError
from lvlm_fix.private import asks_for_name

__all__ = ["Family", "entering", "family_of", "mlp_of"]

CROSS = "its image is seen through cross-attention layers, no key of its decoder is an image token"
REFUSED = {
    "diffusion_gemma": "it denoises whole blocks of text, no row predicts the next token",
    "idefics": CROSS,
    "mllama": CROSS,
}  # by model type: families whose configuration does not tell
INNER = {
    "blip-2",
    "instructblip",
    "instructblipvideo",
}  # families that embed the prompt and let their language model generate alone
MLPS = (
    "mlp",
    "feed_forward",
    "block_sparse_moe",
    "moe",
)  # what layers call their feed-forward part
IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


@dataclass(frozen=True)
class Family:
    """What the methods need to know of one loaded model."""

    name: str  # `config.model_type`
    image_tokens: tuple[int, ...]  # ids of the placeholders that image (and video) features replace
    decoder: PreTrainedModel  # the text decoder; its attention goes through the attention interface
    config_key: (
        str  # the decoder's configuration, as named in the model's; empty where they are one
    )
    layers: nn.ModuleList  # decoder layers, nearest the embeddings first
    attentions: tuple[nn.Module, ...]  # the modules that call the attention interface
    both_ways: bool  # the rows of a prompt see each other ahead and behind
    runs: PreTrainedModel  # the model whose forward `generate` drives: mostly the model itself


def family_of(model: PreTrainedModel) -> Family:
    """Find image tokens, decoder and attention modules of `model`; raises `ModelError` naming what
    is missing.
    """
    config, name = model.config, type(model).__name__
    if reason := REFUSED.get(config.model_type):
        raise ModelError(f"{name} is not supported: {reason}")
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name} is not supported: its image enters an encoder, no key of its decoder is an"
            " image token"
        )
    found = (getattr(config, key, None) for key in IMAGE_TOKENS)
    image_tokens = tuple(dict.fromkeys(token for token in found if token is not None))
    if not image_tokens:
        raise ModelError(
            f"{name} has no image tokens: its config has none of {', '.join(IMAGE_TOKENS)}"
        )
    decoder = model.get_decoder()
    while "layers" not in (parts := dict(decoder.named_children())):  # a head or two around it
        inner = decoder.get_decoder()
        inner = parts.get("model") if inner is decoder else inner
        if not isinstance(inner, PreTrainedModel):
            break
        decoder = inner
    layers = dict(decoder.named_children()).get("layers")
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{name}: its decoder {type(decoder).__name__} has no list of layers")
    keys = [key for key in config.sub_configs if getattr(config, key, None) is decoder.config]
    if decoder.config is config:
        keys = [""]
    if not keys:
        raise ModelError(
            f"{name}: the configuration of its decoder {type(decoder).__name__} was not found in"
            " the model's"
        )
    attentions = tuple(m for m in layers.modules() if isinstance(m.__dict__.get("layer_idx"), int))
    if not attentions:
        raise ModelError(
            f"{name}: no attention module of its decoder {type(decoder).__name__} knows its layer"
        )
    if asking := next((m for m in attentions if asks_for_name(type(m))), None):
        raise ModelError(
            f"{name} is not supported: {type(asking).__name__} picks its keys only under "
            "implementations that it knows by name, and would see all of them"
        )
    both_ways = decoder.config.to_dict().get("use_bidirectional_attention") is True
    runs = model.get_submodule("language_model") if config.model_type in INNER else model
    assert isinstance(runs, PreTrainedModel)
    return Family(
        config.model_type, image_tokens, decoder, keys[0], layers, attentions, both_ways, runs
    )


def entering(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states that a decoder layer is called with: batch query width. Raises `ModelError`
    where layers pass several streams of them.
    """
    hidden: Tensor = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    if hidden.ndim != 3:
        raise ModelError(
            f"the decoder's layers pass {hidden.shape[2]} streams of hidden states, not one: "
            "methods that look at them or edit them cannot serve this model"
        )
    return hidden


def mlp_of(layer: nn.Module) -> nn.Module:
    """The feed-forward part of a decoder layer. Raises `ModelError` where it was not found."""
    parts = dict(layer.named_children())
    found = [parts[name] for name in MLPS if name in parts]
    if len(found) != 1:
        raise ModelError(
            f"the feed-forward part of {type(layer).__name__} was not found: it has "
            f"{', '.join(parts) or 'no parts'}, and exactly one of {', '.join(MLPS)} is looked for"
        )
    return found[0]
