"""`measure`: what two passes over a finished text give, one with the image and one without.

In the pass without the image, the image tokens are deleted (positions contiguous). The model is
measured unmodified, so a text may come from anywhere: the model, a fixed model, or a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.errors import InputError, ModelError
from lvlm_fix.families import family_of
from lvlm_fix.grounding.formulas import glsim, internal_confidence, pas, svar
from lvlm_fix.grounding.recorder import Recorder, passing
from lvlm_fix.heads.vhd import vision_aware_divergence

__all__ = ["Measured", "measure"]


@dataclass(frozen=True)
class Measured:
    """What is known of every token of a text."""

    vhd: Float[Tensor, "tokens layers heads"]  # distance of head outputs with and without image
    tokens: Mapping[str, Float[Tensor, " tokens"]]  # name -> one number a token
    looks: Float[Tensor, "tokens layers heads image"] | None  # attention, 0–1, float16, on the CPU


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    ids: Int[Tensor, " tokens"],
    *,
    looks: bool = False,
    published: bool = False,
) -> Measured:
    """The two passes, for the inputs of one prompt with an image and the ids of a finished text.

    `tokens` holds "log_probability" (natural, with image), "image_gain" (that minus without) and
    "entropy" (nats, sign reversed); with `published` also "svar", "pas", "ic" and "glsim", which
    need hidden states of all layers. With `looks`, attention on the image is kept.
    Raises `InputError` (several samples, no image, no text) and `ModelError`.
    """
    family = family_of(model)
    prompt: Tensor = inputs["input_ids"]
    if len(prompt) != 1 or not len(ids):
        raise InputError(
            f"grounding takes one prompt and a text, got {len(prompt)} prompts and {len(ids)}"
            " tokens"
        )
    full = torch.cat((prompt, ids.to(prompt.device)[None]), dim=1)
    is_image = torch.isin(full[0], torch.tensor(family.image_tokens, device=full.device))
    if not is_image.any():
        raise InputError("the prompt has no image, so no word can rest on one")
    more: dict[str, Any] = dict(inputs) | {
        "input_ids": full,
        "attention_mask": torch.ones_like(full),
    }
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            more[name] = torch.cat((inputs[name], inputs[name].new_zeros(1, len(ids))), dim=1)
    rows = torch.arange(prompt.shape[1] - 1, full.shape[1] - 1, device=full.device)
    image = is_image.nonzero().flatten()
    seen = Recorder(rows, image if looks or published else None)
    output = passing(
        model, seen, lambda: model(**more, use_cache=False, output_hidden_states=published)
    )
    short = full[:, ~is_image]
    back = rows - int(is_image.sum())
    blind = Recorder(back)
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    hidden = passing(
        model,
        blind,
        lambda: family.decoder(
            inputs_embeds=embeddings(short),
            attention_mask=torch.ones_like(short),
            position_ids=torch.arange(short.shape[1], device=short.device)[None],
            use_cache=False,
        ).last_hidden_state[0, back],
    )
    picked = torch.arange(len(ids)), ids.cpu()
    likely = output.logits[0, rows].float().log_softmax(-1).cpu()
    unseen = head(hidden).float().log_softmax(-1).cpu()[picked]
    tokens = {
        "log_probability": likely[picked],
        "image_gain": likely[picked] - unseen,
        "entropy": (likely.exp() * likely.clamp_min(-1e4)).sum(-1),  # 0 · −inf is 0
    }
    layers = sorted(seen.outputs)
    vhd = torch.stack(
        [
            vision_aware_divergence(seen.outputs[i], blind.outputs[i], outliers=False).cpu()
            for i in layers
        ],
        dim=1,
    )
    maps = torch.stack([seen.looks[i].half().cpu() for i in layers], 1) if seen.looks else None
    if published:
        states = getattr(output, "hidden_states", None)
        if not states or maps is None:
            raise ModelError(f"{type(model).__name__} gives no hidden states of its decoder")
        shown, on = [state[0] for state in states], head.weight.device
        tokens |= {
            "svar": svar(maps),
            "pas": pas(torch.stack([seen.written[i].cpu() for i in layers], 1)),
            "ic": internal_confidence([s[image.to(s.device)].to(on) for s in shown], head, ids),
            "glsim": glsim(
                shown[-2].to(on), shown[-1].to(on), head, rows.to(on), image.to(on), ids
            ),
        }
    return Measured(vhd, tokens, maps if looks else None)
