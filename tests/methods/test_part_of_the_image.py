"""SID, DAMRO and MoD: by hand, and against plain full passes without cache in which the branch is
written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

import lvlm_fix as lf
from lvlm_fix.method import AtToken
from lvlm_fix.tools.miniature import IMAGE, miniature
from lvlm_fix.watches import FirstToken, MostSeen

STEPS = 5
GREEDY: dict[str, Any] = {
    "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False,
    "suppress_tokens": [IMAGE], "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip
METHODS = {
    "sid": lf.SID(share=0.2),
    "damro": lf.DAMRO(share=0.2),
    "mod": lf.MoD(threshold=0.0),  # no divergence is as small
    "mod, agreeing": lf.MoD(threshold=1.0),  # no divergence is as large
}


# by hand
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [lf.SID(plausible=0.2), lf.DAMRO(strength=0.5, plausible=0.2)])
def test_a_contrast_by_hand(method: lf.Method) -> None:
    # log 0.2 = −1.6: of 4, 3, 1 the last is too unlikely; 1.5·l − 0.5·l'
    logits, other = torch.tensor([[4.0, 3.0, 1.0]]), torch.tensor([[6.0, 1.0, 9.0]])
    at = AtToken(5, 0, dict.fromkeys(method.watches(5), other))
    assert method.next_token_logits(logits, at).tolist() == [[3.0, 4.0, -math.inf]]


def test_mod_adds_a_branch_that_agrees_and_draws_away_from_one_that_does_not() -> None:
    method = lf.MoD(plausible=0.2)
    logits = torch.tensor([[4.0, 3.0, 1.0], [4.0, 3.0, 1.0]])
    other = torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]])
    branch, apart = method.watches(5)
    at = AtToken(5, 3, {branch: other, apart: torch.tensor([0.04, 0.06])})
    found = method.next_token_logits(logits, at)
    assert found.tolist() == [[8.0, 11.0, -math.inf], [7.0, 4.0, -math.inf]]


# literally
# ----------------------------------------------------------------------------------------------


@contextmanager
def attending(model: Any, attend: Any) -> Iterator[None]:
    """A model whose eager attention is `attend(layer, weights of the plain softmax's logits)`."""
    plain = modeling_llama.eager_attention_forward

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ keys.transpose(2, 3) * scaling
        rows = torch.arange(logits.shape[2])
        logits = logits.masked_fill(rows > rows[:, None], -math.inf)
        weights = attend(module.layer_idx, logits)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    implementation = model.get_decoder().config._attn_implementation
    model.set_attn_implementation({"text_config": "eager"})
    modeling_llama.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = plain
        model.set_attn_implementation({"text_config": implementation})


def whole(model: Any, ids: list[int], photo: Tensor) -> Tensor:
    return model(input_ids=torch.tensor([ids]), pixel_values=photo).logits[0, -1]


def embedded(model: Any, ids: list[int], photo: Tensor) -> Tensor:
    """What enters the decoder: query width."""
    found: list[Tensor] = []

    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(kwargs["inputs_embeds"][0])

    hooked = model.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    whole(model, ids, photo)
    hooked.remove()
    return found[0]


def least_seen(model: Any, ids: list[int], photo: Tensor, prompt: int) -> Tensor:
    """SID's branch: every row behind layer 1 sees three of the sixteen image tokens."""
    image = [j for j, token in enumerate(ids) if token == IMAGE]
    chosen: dict[int, list[int]] = {}

    def attend(layer: int, logits: Tensor) -> Tensor:
        weights = logits.softmax(-1)
        if layer == 1:
            for row in range(len(ids)):
                asked = max(row, prompt - 1)
                mean = weights[0, :, asked].mean(0)
                chosen[row] = sorted(image, key=lambda j: float(mean[j]))[:3]
        if layer > 1:
            hidden = logits.clone()
            for row in range(len(ids)):
                for j in image:
                    if j not in chosen[row]:
                        hidden[0, :, row, j] = -math.inf
            weights = hidden.softmax(-1).nan_to_num(0.0)
        return weights

    with attending(model, attend):
        return whole(model, ids, photo)


def tower_picked(model: Any, ids: list[int], photo: Tensor) -> Tensor:
    """DAMRO's branch: three patches, in the order of the CLS token's attention."""
    tower = model.get_encoder(modality="image")
    layer = next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList))[-2]
    found: list[Tensor] = []
    hooked = [
        part.register_forward_hook(lambda _, args, output: found.append(output[0]))
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    ]
    rows = embedded(model, ids, photo)
    for one in hooked:
        one.remove()
    query, key = found
    weights = (key @ query[0] / query.shape[1] ** 0.5).softmax(-1)[1:]
    best = weights.topk(3).indices
    image = [j for j, token in enumerate(ids) if token == IMAGE]
    rows = torch.cat((rows[: image[0]], rows[image[0] + best], rows[image[-1] + 1 :]))
    return model.lm_head(model.get_decoder()(inputs_embeds=rows[None]).last_hidden_state)[0, -1]


def most_seen(model: Any, ids: list[int], photo: Tensor, prompt: int) -> Tensor:
    """MoD's branch: the twelve of sixteen image embeddings with the least attention are zero."""
    image = [j for j, token in enumerate(ids) if token == IMAGE]
    received = torch.zeros(prompt)

    def attend(layer: int, logits: Tensor) -> Tensor:
        weights = logits.softmax(-1)
        received.add_(weights[0, :, -1].mean(0))
        return weights

    with attending(model, attend):
        whole(model, ids[:prompt], photo)
    rows = embedded(model, ids, photo).clone()
    for j in sorted(image, key=lambda j: float(received[j]))[:12]:
        rows[j] = 0
    return model.lm_head(model.get_decoder()(inputs_embeds=rows[None]).last_hidden_state)[0, -1]


def apart(one: Tensor, other: Tensor) -> float:
    """The Jensen-Shannon divergence, token by token."""
    total = 0.0
    for p, q in zip(one.softmax(-1).tolist(), other.softmax(-1).tolist(), strict=True):
        m = (p + q) / 2
        total += (p * math.log(p / m) + q * math.log(q / m)) / 2
    return total


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_step_equals_plain_full_passes(name: str) -> None:
    model, inputs = miniature("llava")
    with lf.fix(model, METHODS[name]):
        out = model.generate(**inputs, **GREEDY)
    width, acted = inputs["input_ids"].shape[1], False
    for sample in range(2):
        photo = inputs["pixel_values"][sample : sample + 1]
        real = inputs["attention_mask"][sample].bool()
        prompt = inputs["input_ids"][sample][real].tolist()
        agrees = False
        for step, found in enumerate(out.logits):
            ids = prompt + out.sequences[sample, width : width + step].tolist()
            plain = whole(model, ids, photo)
            if name == "sid":
                wanted = 1.5 * plain - 0.5 * least_seen(model, ids, photo, len(prompt))
                least = 0.1
            elif name == "damro":
                wanted, least = 2.5 * plain - 1.5 * tower_picked(model, ids, photo), 0.1
            else:
                other, least = most_seen(model, ids, photo, len(prompt)), 0.5
                if step == 0:
                    agrees = apart(plain, other) < METHODS[name].threshold
                    assert agrees == (name == "mod, agreeing")
                wanted = plain + 4 * other if agrees else 2 * plain - other
            wanted = wanted.masked_fill(plain < math.log(least) + plain.max(), -math.inf)
            torch.testing.assert_close(found[sample], wanted, atol=1e-5, rtol=1e-5)
            acted |= not torch.equal(wanted.argmax(), plain.argmax())
    assert acted or name == "sid"


# where callers differ
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*METHODS} - {"damro"}))  # whose photo is encoded once
@torch.no_grad()
def test_beams_with_cache_equal_beams_without(name: str) -> None:
    model, inputs = miniature("llava")
    options = GREEDY | {"num_beams": 4, "num_return_sequences": 4, "output_scores": True}
    with lf.fix(model, METHODS[name]):
        cached = model.generate(**inputs, **options)
        if name.startswith("mod"):  # the first token's logits are not kept without a cache
            with pytest.raises(lf.InputError, match="leave use_cache on"):
                model.generate(**inputs, **options, use_cache=False)
            return
        uncached = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(
        cached.sequences_scores, uncached.sequences_scores, atol=1e-5, rtol=1e-5
    )


def test_a_photo_that_enters_several_layers_is_refused_where_embeddings_are_edited() -> None:
    model, inputs = miniature("qwen3_vl")
    with (
        torch.no_grad(),
        lf.fix(model, "mod"),
        pytest.raises(lf.ModelError, match="enters several layers"),
    ):
        model(**inputs)


def test_all_of_the_image_is_no_other_view() -> None:
    """A branch that keeps everything is the model itself."""
    model, inputs = miniature("llava")
    with torch.no_grad():
        plain = model(**inputs).logits[:, -1]
        for method in (lf.SID(share=1.0, plausible=0.0), lf.MoD(share=1.0, plausible=0.0)):
            with lf.fix(model, method):
                found = model(**inputs).logits[:, -1]
            wanted = plain * (5 if isinstance(method, lf.MoD) else 1)
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_first_token_is_compared_with_the_same_branch() -> None:
    branch, apart = lf.MoD(share=0.5).watches(5)
    assert apart == FirstToken(branch) and branch.view == MostSeen(0.5)
