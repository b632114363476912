"""The private names of transformers that the library relies on, in one place.

Each is used by a test on every release of the matrix (`tests/test_private.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = [
    "commit_of",
    "first_device",
    "implementation",
    "implementation_of",
    "name_of",
    "recomputes",
    "register_attention",
    "switch",
]


def implementation_of(part: PreTrainedModel) -> str:
    """The name of the attention implementation that a model, or a part of it, uses."""
    return part.config._attn_implementation or "sdpa"


def switch(model: PreTrainedModel, key: str, name: str) -> None:
    """Let the part of `model` whose configuration is called `key` use the implementation `name`."""
    model.set_attn_implementation({key: name})


def implementation(module: nn.Module, name: str) -> Callable[..., Any]:
    """The attention function called `name`; "eager" is each modeling file's own."""
    if name != "eager":
        return ALL_ATTENTION_FUNCTIONS[name]
    return sys.modules[type(module).__module__].eager_attention_forward


def register_attention(name: str, function: Callable[..., Any], like: str) -> None:
    """Register an attention function, with the mask function of the implementation `like`."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[like])


def commit_of(model: PreTrainedModel) -> str | None:
    """The hub commit of the loaded weights; None for a folder."""
    return getattr(model.config, "_commit_hash", None)


def recomputes(model: PreTrainedModel) -> bool:
    """Whether the model keeps no activations, and passes again to compute gradients."""
    kind = dir(type(model))
    name = "activation" if "is_activation_checkpointing" in kind else "gradient"
    return bool(getattr(model, f"is_{name}_checkpointing"))


def first_device(model: PreTrainedModel) -> torch.device:
    """Where a model wants its inputs, also where its weights wait in memory or on disk."""
    if model.device.type != "meta":
        return model.device
    hook = model.get_input_embeddings().__dict__.get("_hf_hook")  # accelerate's
    return torch.device(getattr(hook, "execution_device", None) or "cpu")


def name_of(model: PreTrainedModel) -> str:
    """The name or folder that the model was loaded from; the class where there is none."""
    return model.config._name_or_path or type(model).__name__
