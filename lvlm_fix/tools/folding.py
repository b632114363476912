"""A gain of heads in the weights: their own columns of the output projection, multiplied.

A head's output reaches the model through these columns, so a factor on the one is a factor on the
other. A bias of the projection is added behind it and stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.errors import DataError, ModelError, SettingError
from lvlm_fix.families import family_of
from lvlm_fix.methods import VHR
from lvlm_fix.watches.heads import picked_by_table

__all__ = ["fold", "given_heads", "owners_of", "plain_linear"]

PROJECTIONS = (
    "o_proj",
    "out_proj",
    "wo",
    "dense",
)  # what modeling files call the output projection


def given_heads(method: VHR, model: PreTrainedModel) -> Bool[Tensor, "layers heads"]:
    """The heads on which a method with a table acts in `model`.

    Raises `SettingError` for a layer that the model has not, and `DataError` where the table picks
    no head.
    """
    family = family_of(model)
    depth = len(family.layers)
    layers = sorted(method.acts_in(depth))
    if layers and layers[-1] >= depth:
        raise SettingError(f"there is no layer {layers[-1]}; this model has {depth}, from 0")
    picks = method.picks(depth)
    if picks is None or picks.table is None:
        raise DataError(
            "only heads from a table are the same for every prompt: give the method a table"
        )
    acting = torch.zeros(depth, 1, dtype=torch.bool)
    acting[layers] = True
    scored = family.decoder.config.num_attention_heads
    heads = picked_by_table(picks, depth, scored)[1] & acting
    if not heads.any():
        raise DataError(f"the table ({method.scoring}) picks no head in layers {layers}")
    return heads


@torch.no_grad()
def fold(model: PreTrainedModel, heads: Bool[Tensor, "layers heads"], strength: float) -> None:
    """Multiply the output-projection columns of `heads` by `strength`, in place; nothing is changed
    on an error.

    A projection in half precision becomes float32 where its own type cannot hold the products
    exactly. Raises `ModelError` where a projection cannot be found, is quantised, or is shared.
    """
    owners, found = owners_of(model), {}
    for module in family_of(model).attentions:
        layer = module.__dict__["layer_idx"]
        if heads[layer].any():
            found[layer] = _projection(module, layer, heads.shape[1], owners)
    for layer, linear in found.items():
        gain = torch.where(heads[layer], strength, 1.0).repeat_interleave(
            linear.in_features // heads.shape[1]
        )
        scaled = linear.weight.float() * gain.to(linear.weight.device)
        own = scaled.to(linear.weight.dtype)
        wide = linear.weight.dtype in (torch.float16, torch.bfloat16) and not torch.equal(
            own.float(), scaled
        )
        linear.weight = nn.Parameter(scaled if wide else own, requires_grad=False)


def _projection(
    module: nn.Module, layer: int, heads: int, owners: dict[int, list[str]]
) -> nn.Linear:
    where = f"the output projection of layer {layer}"
    linear = plain_linear(module, PROJECTIONS, where, owners)
    if linear.in_features % heads:
        raise ModelError(
            f"{where} takes {linear.in_features} values, which {heads} heads cannot share evenly"
        )
    return linear


def owners_of(model: nn.Module) -> dict[int, list[str]]:
    """Address of a weight -> the names of the parameters that it is."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter.data_ptr(), []).append(name)
    return owners


def plain_linear(
    module: nn.Module, names: Sequence[str], where: str, owners: Mapping[int, Sequence[str]]
) -> nn.Linear:
    """The one part of `module` with one of `names`: a floating-point `nn.Linear` of its own.

    Raises `ModelError` that begins with `where`: not found, quantised, wrapped or shared.
    """
    children = dict(module.named_children())
    found = [name for name in names if name in children]
    if len(found) != 1:
        raise ModelError(
            f"{where} was not found: {type(module).__name__} has"
            f" {', '.join(children) or 'no parts'}, and exactly one of {', '.join(names)} is"
            " looked for"
        )
    linear = children[found[0]]
    if (
        type(linear) is not nn.Linear
        or type(linear.weight.data) is not Tensor
        or not linear.weight.is_floating_point()
    ):
        raise ModelError(
            f"{where} is quantised or wrapped by an adapter ({type(linear).__name__} of"
            f" {type(linear.weight.data).__name__}, {linear.weight.dtype}): a change would be"
            " rounded away; export the floating-point checkpoint, with adapters merged into it"
            " first"
        )
    if len(shared := owners[linear.weight.data_ptr()]) > 1:
        raise ModelError(
            f"{where} is tied: {' and '.join(shared)} are one weight, so a change would act on both"
        )
    return linear
