"""The next token's logits: edits of the model's output, and what runs beside the main pass to serve
them.

A second branch has its own cache and takes one token a step, behind the main pass in the same
forward hook. Methods that edit attention or head outputs do not act in it: it stands for the
unmodified model on another view of the prompt, which is what the papers contrast with (and what a
method would act on there, the image, is mostly gone).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lvlm_fix.errors import InputError, ModelError
from lvlm_fix.families import Family, entering
from lvlm_fix.method import Method, Seen
from lvlm_fix.prompt import Prompt
from lvlm_fix.views import Inputs, View

__all__ = ["Branch", "EarlyLayers", "NextToken"]

Kind = Literal["prompt", "turn", "token"]
ENCODE = "get_image_features"

MINE = ("attention_mask", "cache_position", "input_ids", "inputs_embeds", "labels", "past_key_values", "position_ids",
        "return_dict", "use_cache", "output_attentions", "output_hidden_states")  # fmt: skip


def _last(valid: Bool[Tensor, "batch query"]) -> Int[Tensor, " batch"]:
    """Each sample's last column that is not padding."""
    return (torch.arange(valid.shape[1], device=valid.device) * valid).amax(-1)


def _row(logits: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each sample's last token among the positions whose logits were kept."""
    at = (_last(valid) - (valid.shape[1] - logits.shape[1])).clamp_min(0).to(logits.device)
    return torch.arange(len(at), device=at.device), at


class Branch:
    """A second pass of the whole model over another view of the prompt, one token a step beside the
    first.

    It is the model's own forward, so positions, scaling and caps of the logits are the family's
    own.
    """

    def __init__(self, view: View, model: PreTrainedModel) -> None:
        self.view = view.ready(model)
        # a text model inside (InstructBLIP) serves alone what has no image
        speaking = [
            m
            for m in model.modules()
            if isinstance(m, PreTrainedModel) and m.get_output_embeddings()
        ]
        self._model: Any = speaking[-1] if view.counted else model
        self._cache: Any = None
        self._mask: Tensor | None = None
        self._padded = False

    def advance(self, inputs: Inputs) -> Float[Tensor, "batch vocabulary"]:
        """The branch's logits of the next token, after the same tokens as the main pass."""
        new = self.view.of(inputs)
        if inputs.first:
            self._cache, self._mask, self._padded = None, new.valid, not bool(new.valid.all())
        else:
            assert self._mask is not None
            self._mask = torch.cat((self._mask, new.valid), dim=1)
        mask, positions = self._mask.long(), new.positions
        if self.view.counted:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -new.ids.shape[1] :]
        given = new.more if positions is None else new.more | {"position_ids": positions}
        given["attention_mask"] = mask if self._padded else None
        # past its hooks: nothing of the main pass, ours included, is to notice
        output = self._model.forward(
            input_ids=new.ids, past_key_values=self._cache, use_cache=True, **given
        )
        self._cache = output.past_key_values
        logits = output.logits[_row(output.logits, new.valid)]
        if new.copies > 1:
            self._cache.batch_repeat_interleave(new.copies)
            self._mask, logits = (
                rows.repeat_interleave(new.copies, dim=0) for rows in (self._mask, logits)
            )
        return logits

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        """Follow the beams."""
        if self._cache is not None and self._mask is not None:
            self._cache.reorder_cache(index)
            self._mask = self._mask.index_select(0, index.to(self._mask.device))


class EarlyLayers:
    """The hidden states that enter some layers, at the last position, as logits: final norm, then
    the head.
    """

    def __init__(self, layers: Collection[int], model: PreTrainedModel, family: Family) -> None:
        self.layers = tuple(layers)
        self._norm = dict(family.decoder.named_children()).get("norm")
        self._head = model.get_output_embeddings()
        if self._norm is None or self._head is None:
            missing = "final norm" if self._norm is None else "output embeddings"
            raise ModelError(
                f"{type(model).__name__}: early layers cannot be read, its {missing} was not found"
            )
        self._name, self._family = type(model).__name__, family
        self._found: dict[int, Tensor] = {}

    def hooks(self) -> list[RemovableHandle]:
        """Hooks that keep what enters the layers, and what leaves the last."""
        blocks = self._family.layers
        made = [
            blocks[layer].register_forward_pre_hook(self._enter(layer), with_kwargs=True)
            for layer in self.layers
        ]
        return [*made, blocks[-1].register_forward_hook(self._leave)]

    def _enter(self, layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._found[layer] = entering(args, kwargs)

        return hook

    def _leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._found[len(self._family.layers)] = output if isinstance(output, Tensor) else output[0]

    def read(
        self,
        logits: Float[Tensor, "batch vocabulary"],
        valid: Bool[Tensor, "batch query"],
        check: bool,
    ) -> Float[Tensor, "batch layers vocabulary"]:
        """Logits of the early layers; `check` that the last layer so read gives the model's own."""
        assert self._norm is not None and self._head is not None
        last = _last(valid)
        rows = torch.arange(len(last), device=last.device)
        number = len(self._family.layers)
        read = (*self.layers, number) if check else self.layers
        hidden = torch.stack(
            [self._found[layer][rows, last].to(logits.device) for layer in read], dim=1
        )
        self._found.clear()
        found = self._head(self._norm(hidden))
        if check and not torch.allclose(found[:, -1].float(), logits.float(), rtol=1e-2, atol=1e-2):
            raise ModelError(
                f"{self._name}: its logits are not norm and output embeddings alone; early layers differ"
            )
        return found[:, : len(self.layers)]


class NextToken:
    """The methods that edit the next token's logits, in order, with their branches and early
    layers.
    """

    def __init__(self, methods: Sequence[Method], model: PreTrainedModel, family: Family) -> None:
        self._model, self._depth = model, len(family.layers)
        here = "next_token_logits"
        self._acting = [(i, method) for i, method in enumerate(methods) if here in method.edits()]
        views = {
            i: view for i, method in self._acting if (view := method.second_view()) is not None
        }
        self.branches = {view: Branch(view, model) for view in set(views.values())}
        self._views = views
        early = {
            i: layers for i, method in self._acting if (layers := method.early_layers(self._depth))
        }
        self._early = {i: EarlyLayers(layers, model, family) for i, layers in early.items()}
        self._step = 0
        self._hooks: list[RemovableHandle] = []
        self._replaced: list[
            Any
        ] = []  # while attached to it, the model's own `get_image_features`, if it had one
        # image features, what they came from, their number
        self._encoded: tuple[Any, dict[str, Any], int] | None = None
        self._names = tuple(inspect.signature(model.forward).parameters)

    def __bool__(self) -> bool:
        return bool(self._acting)

    def attach(self) -> None:
        """Watch the early layers, and `get_image_features` where pixels are needed: `generate`
        passes only features.
        """
        self._hooks = [hook for early in self._early.values() for hook in early.hooks()]
        base: Any = self._model.base_model
        if (
            not any(view.from_pixels for view in self.branches)
            or (plain := getattr(base, ENCODE, None)) is None
        ):
            return

        @functools.wraps(plain)
        def encode(*args: Any, **kwargs: Any) -> Any:
            features = plain(*args, **kwargs)
            pooled = getattr(
                features, "pooler_output", None
            )  # counted here: beams will repeat it in place
            self._encoded = features, kwargs, 0 if pooled is None else sum(map(len, pooled))
            return features

        self._replaced = [base.__dict__.get(ENCODE)]
        base.__dict__[ENCODE] = encode

    def remove(self) -> None:
        """Leave the model as it was. May be called twice."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._encoded = [], None
        if self._replaced:
            base: Any = self._model.base_model
            del base.__dict__[ENCODE]
            if (own := self._replaced.pop()) is not None:
                base.__dict__[ENCODE] = own

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        """Follow the beams."""
        for branch in self.branches.values():
            branch.reorder(index)

    def edit(
        self, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any], prompt: Prompt, kind: Kind
    ) -> list[tuple[int, Tensor]]:
        """Edit the last position's logits of the model's output, in samples that have an image.

        `kind` of the pass: the first over a prompt, over a further turn of it, or over one
        generated token. Returns, by method, where it changed them. Raises `InputError` where the
        output has no logits to edit.
        """
        logits = getattr(output, "logits", None)  # a plain tuple has none
        if logits is None:
            raise InputError(
                "the next token's logits are edited in the model's output: leave return_dict on"
            )
        self._step = self._step + 1 if kind == "token" else 0
        inputs = self._inputs(dict(zip(self._names, args, strict=False)) | kwargs, prompt, kind)
        at = _row(logits, inputs.valid)
        row = plain = logits[at]
        # first, as branches pass the early layers too
        early = {
            i: read.read(plain, inputs.valid, check=inputs.first) for i, read in self._early.items()
        }
        encoded = self._encoded  # the branches encode images too
        others = {
            view: branch.advance(inputs).to(plain.device) for view, branch in self.branches.items()
        }
        self._encoded = encoded
        active = prompt.with_image.to(row.device)[:, None]
        seen = Seen(
            self._depth, self._depth, kind != "token", inputs.image, inputs.image, inputs.valid
        )
        seen.step = self._step
        changed = []
        for number, method in self._acting:
            seen.other = others[self._views[number]] if number in self._views else None
            seen.early = early.get(number)
            new = method.next_token_logits(row, seen)
            if new is not row:
                new = torch.where(active, new.to(row.dtype), row)
                changed.append((number, new != row))
                row = new
        if row is not plain:
            output.logits = logits.index_put(at, row)
        return changed

    def _inputs(self, given: dict[str, Any], prompt: Prompt, kind: Kind) -> Inputs:
        """What the main pass was given."""
        ids: Tensor = given["input_ids"]
        if kind == "token":
            image, valid = (
                torch.zeros_like(ids, dtype=torch.bool),
                torch.ones_like(ids, dtype=torch.bool),
            )
        else:
            image, valid = (
                mask[:, prompt.length - ids.shape[1] : prompt.length]
                for mask in (prompt.image, prompt.valid)
            )
        more = {name: value for name, value in given.items() if name not in MINE}
        inputs = Inputs(ids, valid, image, given.get("position_ids"), more, kind == "prompt")
        features = (more.get("mm_encoder_outputs") or {}).get("image")
        if features is None or self._encoded is None or features is not self._encoded[0]:
            return inputs
        _, given, tokens = self._encoded
        pixels = {name: value for name, value in given.items() if name not in MINE}
        return replace(inputs, pixels=pixels, beams=int(image.sum()) // max(tokens, 1))
