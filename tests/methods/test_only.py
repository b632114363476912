"""ONLY: by hand, and against the equations over a plain full pass with full attention maps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.method import AtToken
from lvlm_fix.tools.miniature import IMAGE, miniature
from lvlm_fix.watches import TextualLayer, textual


def test_a_layer_that_agrees_is_added_and_one_that_does_not_is_contrasted_with() -> None:
    logits = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1]]).log()
    other = torch.tensor([[0.45, 0.45, 0.1], [0.1, 0.4, 0.5]]).log()  # 0.1 and 0.8 away
    at = AtToken(5, 0, {TextualLayer(): other})
    found = lf.ONLY(agreeing=2.0, contrast=1.0, plausible=0.3).next_token_logits(logits, at)
    wanted = torch.stack((logits[0] + 2 * other[0], 2 * logits[1] - other[1]))
    torch.testing.assert_close(found[:, :2], wanted[:, :2])
    assert (found[:, 2] == -math.inf).all()


def test_peaks_go_and_heads_that_are_surer_of_the_text_than_of_the_image() -> None:
    # keys: the first, three of text, three of the image; of each three the largest is a peak
    surer = [0.1, 0.3, 0.0, 0.05, 0.1, 0.1, 0.35]  # text left: one key; image left: two alike
    evener = [0.1, 0.1, 0.1, 0.3, 0.02, 0.1, 0.3]  # text left: two alike; image left: two uneven
    weights = torch.tensor([surer, evener])[None, :, None]
    image = torch.tensor([0, 0, 0, 0, 1, 1, 1]).bool()[None, None, None]
    text = torch.tensor([0, 1, 1, 1, 0, 0, 0]).bool()[None, None, None]
    found = textual(weights, image, text)[0, :, 0]
    assert found[0].tolist() == [0.0] * 7
    torch.testing.assert_close(found[1], torch.tensor([0.1, 0.1, 0.1, 0.0, 0.02, 0.1, 0.0]))


def peaks_gone(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return [0.0 if v > mean + spread else v for v in values]


def entropy(values: list[float]) -> float:
    total = sum(values)
    return -sum(v / total * math.log(v / total + 1e-6) for v in values)


def literal(model: Any, ids: Tensor, photo: Tensor) -> tuple[Tensor, bool]:
    """The edited logits of the next token of one text, and whether the layer agreed."""
    caught: dict[str, Tensor] = {}
    layers, norm = model.get_decoder().layers, model.get_decoder().norm
    first, last = layers[0], layers[-1]

    def value(_: Any, args: Any, output: Tensor) -> None:
        caught["value"] = output[0]

    hook = first.self_attn.v_proj.register_forward_hook(value)
    out = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=photo,
        output_hidden_states=True, output_attentions=True,
    )  # fmt: skip
    hook.remove()
    rows = out.attentions[0][0, :, -1]  # heads key
    image = [i for i, token in enumerate(ids[0].tolist()) if token == IMAGE]
    text = [i for i in range(1, ids.shape[1]) if i not in image]
    kept, ratios = rows.clone(), []
    for head, row in enumerate(rows.tolist()):
        parts = [peaks_gone([row[i] for i in where]) for where in (text, image)]
        for where, part in zip((text, image), parts, strict=True):
            kept[head, where] = torch.tensor(part)
        ratios.append(entropy(parts[0]) / entropy(parts[1]))
    for head, ratio in enumerate(ratios):
        if ratio < sum(ratios) / len(ratios):
            kept[head] = 0.0
    dim = first.self_attn.head_dim
    values = caught["value"].unflatten(-1, (-1, dim))  # key key_heads dim
    group = len(rows) // values.shape[1]
    heads = [kept[head] @ values[:, head // group] for head in range(len(rows))]
    state = last.input_layernorm(first.self_attn.o_proj(torch.cat(heads)))
    state = 0.2 * out.hidden_states[-2][0, -1] + state
    state = state + last.mlp(last.post_attention_layernorm(state))
    other = model.lm_head(norm(state) + 0.5 * out.hidden_states[-1][0, -1])  # normed already
    own = out.logits[0, -1]
    agree = float((own.softmax(-1) - other.softmax(-1)).abs().sum()) < 0.25
    mixed = own + 3 * other if agree else 2 * own - other
    return mixed.masked_fill(own < math.log(0.1) + own.max(), -math.inf), agree


@pytest.mark.parametrize("scale", [0.05, 1.0])
@torch.no_grad()
def test_every_step_equals_a_full_pass(scale: float) -> None:
    model: Any
    model, inputs = miniature("llava")
    model.lm_head.weight.mul_(scale)  # the nearer all logits are, the more both agree
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with lf.fix(model, "only"):
        out = model.generate(
            **inputs, **options, suppress_tokens=[IMAGE], output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    model.set_attn_implementation("eager")
    width, agreed = inputs["input_ids"].shape[1], set[bool]()
    for sample in range(2):
        real = inputs["attention_mask"][sample].bool()
        for step, found in enumerate(out.logits):
            written = out.sequences[sample, width : width + step]
            ids = torch.cat((inputs["input_ids"][sample][real], written))[None]
            wanted, agree = literal(model, ids, inputs["pixel_values"][sample : sample + 1])
            agreed.add(agree)
            torch.testing.assert_close(found[sample], wanted, atol=1e-5, rtol=1e-5)
    assert agreed == ({True} if scale < 1 else {False})
