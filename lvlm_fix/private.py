"""The private names of transformers that the library relies on, in one place.

Each is used by a test on every release of the matrix (`tests/test_private.py`).
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = [
    "asks_for_name",
    "BeamPieces",
    "beam_pieces",
    "commit_of",
    "first_device",
    "decode",
    "go_on",
    "implementation",
    "implementation_of",
    "name_of",
    "recomputes",
    "register_attention",
    "special_tokens",
    "start",
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


@functools.cache
def asks_for_name(attention: type[nn.Module]) -> bool:
    """Whether attention modules of this class act by the name of the implementation they use."""
    try:
        source = inspect.getsource(attention)
    except OSError:
        return False
    return re.search(r'_attn_implementation\s*((not )?in\b|[!=]=\s*"sdpa")', source) is not None


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


def decode(
    model: PreTrainedModel, ids: Tensor, generation_config: GenerationConfig, **given: Any
) -> Any:
    """The stock decoding that a configuration asks for, as `generate` calls it."""
    inner: Any = model
    beams = (generation_config.num_beams or 1) > 1
    own = inner._beam_search if beams else inner._sample
    return own(ids, generation_config=generation_config, **given)


class BeamPieces(NamedTuple):
    """The steps of the stock beam search, in the order of a turn of its loop."""

    top: Callable[..., Any]  # the best continuations of all beams
    running: Callable[..., Any]  # those that go on
    ended: Callable[..., Any]  # the best of those that ended
    hopeful: Callable[..., Any]  # whether a running one may beat them
    going: Callable[..., Any]  # whether the search goes on


def beam_pieces(model: PreTrainedModel) -> BeamPieces:
    """The pieces of which a beam search can be made."""
    inner: Any = model
    return BeamPieces(
        inner._get_top_k_continuations,
        inner._get_running_beams_for_next_iteration,
        inner._update_finished_beams,
        inner._check_early_stop_heuristic,
        inner._beam_search_has_unfinished_sequences,
    )


def start(
    model: PreTrainedModel, ids: Tensor, config: GenerationConfig, given: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """The pass over a prompt: logits of the next token, and what the next pass is given."""
    inner: Any = model
    output = inner._prefill(ids, config, given)
    return output.logits[:, -1].float(), _following(model, output, given)


def go_on(
    model: PreTrainedModel, ids: Tensor, given: dict[str, Any], tokens: int = 1
) -> tuple[Tensor, dict[str, Any]]:
    """The pass over the last `tokens` of `ids`: the same."""
    inner: Any = model
    inputs = inner.prepare_inputs_for_generation(ids, next_sequence_length=tokens, **given)
    output = inner(**inputs, return_dict=True)
    return output.logits[:, -1].float(), _following(model, output, given)


def _following(model: PreTrainedModel, output: Any, given: dict[str, Any]) -> dict[str, Any]:
    inner: Any = model
    return inner._update_model_kwargs_for_generation(output, dict(given))


def special_tokens(config: GenerationConfig) -> tuple[int, frozenset[int]]:
    """The token that pads, and those that end a text, of a running `generate`."""
    inner: Any = config
    ends = frozenset() if inner._eos_token_tensor is None else inner._eos_token_tensor.tolist()
    pad = inner._pad_token_tensor
    return (int(pad) if pad is not None else min(ends, default=0)), frozenset(ends)


def name_of(model: PreTrainedModel) -> str:
    """The name or folder that the model was loaded from; the class where there is none."""
    return model.config._name_or_path or type(model).__name__
