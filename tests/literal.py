"""The papers' equations, written slowly over full attention maps, independent of the library's
attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama


def head_outputs(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
    """Input of an output projection, split into heads: batch query heads dim."""
    heads = module.in_features // HEAD_DIM
    return args[0].unflatten(-1, (heads, HEAD_DIM))


HEAD_DIM = 8


def without_image(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, image_token: int
) -> dict[int, Tensor]:
    """Every head's output at the last position with the image tokens deleted, sample by sample:
    layer -> b h d.
    """
    layers = model.get_decoder().layers
    found: dict[int, list[Tensor]] = {i: [] for i in range(len(layers))}
    for row, kept in zip(ids, mask, strict=True):
        text = row[kept.bool() & (row != image_token)][None]
        hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda module, args, i=i: found[i].append(head_outputs(module, args)[0, -1])
            )
            for i, layer in enumerate(layers)
        ]
        model.get_decoder()(inputs_embeds=model.get_input_embeddings()(text))
        for hook in hooks:
            hook.remove()
    return {i: torch.stack(rows) for i, rows in found.items()}


def vhd(with_image: Tensor, without: Tensor) -> list[float]:
    """VHD of one layer of one sample (heads dim), eq. 4 and 6, number by number."""
    heads = len(with_image)
    divergence = [
        float(sum((a - b) ** 2 for a, b in zip(with_image[h], without[h], strict=True))) ** 0.5
        for h in range(heads)
    ]
    activation = [float(sum(b**2 for b in without[h])) for h in range(heads)]

    def limit(values: list[float]) -> float:
        mean = sum(values) / heads
        return mean + (sum((v - mean) ** 2 for v in values) / heads) ** 0.5

    d, t = limit(divergence), limit(activation)
    return [0.0 if divergence[h] > d and activation[h] > t else divergence[h] for h in range(heads)]


def above_median(scores: list[float]) -> list[bool]:
    ordered = sorted(scores)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return [s > median for s in scores]


@contextmanager
def vhr(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    image_token: int,
    strength: float,
    acting: set[int],
) -> Iterator[dict[int, list[list[float]]]]:
    """VHR by hooks on the output projections; yields the VHD it measured in the prefill (layer ->
    sample -> head).
    """
    bare = without_image(model, ids, mask, image_token)
    measured: dict[int, list[list[float]]] = {}
    chosen: dict[int, list[list[bool]]] = {}

    def hook(module: nn.Module, args: tuple[Tensor, ...], layer: int) -> tuple[Tensor]:
        outputs = head_outputs(module, args).clone()
        if layer not in chosen:
            measured[layer] = [vhd(outputs[b, -1], bare[layer][b]) for b in range(len(outputs))]
            chosen[layer] = [above_median(scores) for scores in measured[layer]]
        for b in range(len(outputs)):
            for h, is_chosen in enumerate(chosen[layer][b]):
                if is_chosen:
                    outputs[b, :, h] *= strength
        return (outputs.flatten(-2),)

    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a, i=i: hook(m, a, i))
        for i, layer in enumerate(model.get_decoder().layers)
        if i in acting
    ]
    try:
        yield measured
    finally:
        for one in hooks:
            one.remove()


@contextmanager
def var(
    model: PreTrainedModel, ids: Tensor, channels: list[int], *, tau: float, share: float,
    ratio: float,
    image_share: float, image_token: int,
) -> Iterator[list[int]]:  # fmt: skip
    """VAR over full maps in plain loops; yields a list that collects how many rows changed. Needs a
    Llama decoder.
    """
    layers = model.get_decoder().layers
    sinks: dict[int, Tensor] = {}
    plain, implementation = (
        modeling_llama.eager_attention_forward,
        model.get_decoder().config._attn_implementation,
    )
    changed: list[int] = []

    def entering(
        module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], layer: int
    ) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        phi = x[..., channels].abs().amax(-1) / x.square().mean(-1).sqrt()
        sinks[layer] = (
            phi >= tau if x.shape[1] > 1 else torch.cat((sinks[layer], phi >= tau), dim=1)
        )

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ keys.transpose(2, 3) * scaling
        weights = (logits + attention_mask).softmax(-1)
        n_query, n_key = weights.shape[2:]
        prompt = ids.shape[1]
        if module.layer_idx < len(layers) - 1:
            for b in range(len(weights)):
                image = [j for j in range(n_key) if j < prompt and ids[b, j] == image_token]
                sink = [
                    j
                    for j in range(n_key)
                    if sinks[module.layer_idx][b, j] and (j >= prompt or ids[b, j] != 0)
                ]
                others = [j for j in image if j not in sink]
                for i in range(n_query):
                    position = n_key - n_query + i
                    if position < image[-1] or (
                        position < prompt and ids[b, position] in (image_token, 0)
                    ):
                        continue
                    for h in range(weights.shape[1]):
                        row = weights[b, h, i].clone()
                        on_image, on_others = row[image].sum(), row[others].sum()
                        if (
                            on_image >= image_share
                            and on_others / on_image >= ratio
                            and on_others > 0
                        ):
                            freed = share * row[sink].sum()
                            weights[b, h, i, sink] = (1 - share) * row[sink]
                            weights[b, h, i, others] = row[others] + freed * row[others] / on_others
                            changed.append(i)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    hooks = [
        layer.register_forward_pre_hook(lambda m, a, k, i=i: entering(m, a, k, i), with_kwargs=True)
        for i, layer in enumerate(layers)
    ]
    model.set_attn_implementation({"text_config": "eager"})
    modeling_llama.eager_attention_forward = attention
    try:
        yield changed
    finally:
        modeling_llama.eager_attention_forward = plain
        model.set_attn_implementation({"text_config": implementation})
        for one in hooks:
            one.remove()


@contextmanager
def rows(
    model: PreTrainedModel, ids: Tensor, image_token: int, edit: Callable[..., Tensor],
    acting: set[int], last: bool,
    on_weights: bool,
) -> Iterator[None]:  # fmt: skip
    """Edit one row of all heads at a time over full maps: its logits, or its weights given the
    logits (heads key).
    """
    plain, implementation = (
        modeling_llama.eager_attention_forward,
        model.get_decoder().config._attn_implementation,
    )
    prompt = ids.shape[1]

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        bare = query @ keys.transpose(2, 3) * scaling
        logits = bare + attention_mask
        weights = logits.softmax(-1)
        n_query, n_key = weights.shape[2:]
        for b in range(len(weights)):
            image = [j for j in range(prompt) if ids[b, j] == image_token]
            before = [j for j in range(image[0]) if ids[b, j] != 0]
            for i in range(n_query):
                position = n_key - n_query + i
                behind = position > image[-1] and (
                    position >= prompt or ids[b, position] not in (image_token, 0)
                )
                if module.layer_idx in acting and behind and (i == n_query - 1 or not last):
                    if on_weights:
                        weights[b, :, i] = edit(
                            bare[b, :, i].clone(), weights[b, :, i].clone(), image, before
                        )
                    else:
                        edited = edit(bare[b, :, i].clone(), None, image, before)
                        weights[b, :, i] = (edited + attention_mask[b, :, i]).softmax(-1)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    model.set_attn_implementation({"text_config": "eager"})
    modeling_llama.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = plain
        model.set_attn_implementation({"text_config": implementation})


@contextmanager
def columns(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    image_token: int,
    edit: Callable[..., Tensor],
    acting: set[int],
) -> Iterator[None]:
    """Edit one text row of weights at a time (heads key), given every column's mean over the
    prompt's whole map.
    """
    plain, implementation = (
        modeling_llama.eager_attention_forward,
        model.get_decoder().config._attn_implementation,
    )
    prompt = ids.shape[1]
    means: dict[tuple[int, int], Tensor] = {}

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        weights = (query @ keys.transpose(2, 3) * scaling + attention_mask).softmax(-1)
        n_query, n_key = weights.shape[2:]
        for b in range(len(weights)):
            image = [j for j in range(prompt) if ids[b, j] == image_token]
            real = [j for j in range(prompt) if mask[b, j]]
            if n_query == prompt:
                means[module.layer_idx, b] = sum(weights[b, :, i] for i in real) / len(real)
            mean = means[module.layer_idx, b]
            mean = torch.cat((mean, torch.zeros(len(mean), n_key - prompt)), dim=1)
            for i in range(n_query):
                position = n_key - n_query + i
                behind = position > image[-1] and (
                    position >= prompt or ids[b, position] not in (image_token, 0)
                )
                if module.layer_idx in acting and behind:
                    weights[b, :, i] = edit(
                        weights[b, :, i].clone(), mean, len(real), image, real[0]
                    )
        return (weights @ values).transpose(1, 2).contiguous(), weights

    model.set_attn_implementation({"text_config": "eager"})
    modeling_llama.eager_attention_forward = attention
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = plain
        model.set_attn_implementation({"text_config": implementation})


@torch.no_grad()
def cls_rows(tower: PreTrainedModel, pixels: Tensor) -> list[Tensor]:
    """The CLS row of every tower layer's full map, summed over heads, without the CLS column:
    images patches.
    """
    implementation = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    maps = tower(pixels, output_attentions=True).attentions
    tower.set_attn_implementation(implementation)
    return [one[:, :, 0, 1:].sum(1) for one in maps]


@torch.no_grad()
def image_shifts(model: PreTrainedModel, inputs: dict[str, Tensor], image_token: int) -> Tensor:
    """What each layer gives at a prompt's last row with the image, less without it; sample by
    sample, without padding: samples layers width.
    """
    found = []
    for b, (ids, mask) in enumerate(
        zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ):
        kept = ids[mask.bool()]
        ends: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(
                lambda _, args, output, ends=ends: ends.append(
                    (output if isinstance(output, Tensor) else output[0])[0, -1].clone()
                )
            )
            for layer in model.get_decoder().layers
        ]
        model(input_ids=kept[None], pixel_values=inputs["pixel_values"][b : b + 1])
        model(input_ids=kept[kept != image_token][None])
        for hook in hooks:
            hook.remove()
        half = len(ends) // 2
        found.append(torch.stack(ends[:half]) - torch.stack(ends[half:]))
    return torch.stack(found)


@contextmanager
def states(
    model: PreTrainedModel, edit: Callable[..., list[float]], acting: set[int], mlp: bool
) -> Iterator[None]:
    """Edit one row of hidden states at a time, given as numbers: what layers, or their MLPs, give;
    `edit(row, layer, sample)`.
    """

    def hook(_: nn.Module, args: object, output: Tensor | tuple[Tensor, ...], layer: int) -> object:
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        for b in range(len(hidden)):
            for i in range(hidden.shape[1]):
                hidden[b, i] = torch.tensor(edit(hidden[b, i].tolist(), layer, b))
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    hooks = [
        (layer.mlp if mlp else layer).register_forward_hook(lambda m, a, o, i=i: hook(m, a, o, i))
        for i, layer in enumerate(model.get_decoder().layers)
        if i in acting
    ]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
