"""`Family`: where a model keeps its image tokens and its decoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from lvlm_fix.errors import ModelError

__all__ = ["Family", "family_of"]

IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


@dataclass(frozen=True)
class Family:
    """What the methods need to know of one loaded model."""

    name: str  # `config.model_type`
    image_tokens: tuple[int, ...]  # ids of the placeholders that image (and video) features replace
    decoder: PreTrainedModel  # the text decoder; its attention goes through the attention interface
    config_key: str  # the decoder's configuration, as named in the model's
    layers: nn.ModuleList  # decoder layers, nearest the embeddings first
    attentions: tuple[nn.Module, ...]  # the modules that call the attention interface


def family_of(model: PreTrainedModel) -> Family:
    """Find image tokens, decoder and attention modules of `model`; raises `ModelError` naming what is missing."""
    config, name = model.config, type(model).__name__
    settings = config.to_dict()
    image_tokens = tuple(dict.fromkeys(settings[key] for key in IMAGE_TOKENS if settings.get(key) is not None))
    if not image_tokens:
        raise ModelError(f"{name} has no image tokens: its config has none of {', '.join(IMAGE_TOKENS)}")
    decoder = model.get_decoder()
    keys = [key for key in config.sub_configs if getattr(config, key, None) is decoder.config]
    if not keys:
        raise ModelError(
            f"{name}: the configuration of its decoder {type(decoder).__name__} was not found in the model's"
        )
    layers = dict(decoder.named_children()).get("layers")
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{name}: its decoder {type(decoder).__name__} has no list of layers")
    attentions = tuple(m for m in layers.modules() if isinstance(m.__dict__.get("layer_idx"), int))
    if not attentions:
        raise ModelError(f"{name}: no attention module of its decoder {type(decoder).__name__} knows its layer")
    return Family(config.model_type, image_tokens, decoder, keys[0], layers, attentions)
