"""`fix`: attach methods to a model, detach them, restore everything."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.core.at import Host, Live, Watch, closure
from lvlm_fix.core.attached import Attached, is_attached
from lvlm_fix.core.decoding import own_decoding
from lvlm_fix.core.follower import Follower
from lvlm_fix.core.layer import Layer
from lvlm_fix.core.method import Method
from lvlm_fix.core.next_token import NextToken
from lvlm_fix.core.report import Report, report_of
from lvlm_fix.errors import InputError, ModelError, SettingError
from lvlm_fix.families import Family, family_of, mlp_of
from lvlm_fix.methods import resolve
from lvlm_fix.watches.heads import PickedHeads

__all__ = ["Fix", "fix"]


def fix(
    model: nn.Module, method: str | Method | Sequence[str | Method], *, remember: bool = False
) -> Fix:
    """Let methods act on `model` until the block ends or `.remove()` is called.

    Args:
        model: any Hugging Face image-text-to-text model whose decoder uses the attention interface,
            or an adapter's or a compiler's wrapper around one.
        method: a name ("vhr"), names in order ("var+vhr"), a method, or a list of them. At each
            place they act in the order given. Places follow the data: attention logits, attention
            weights, head outputs, hidden states, then the next token's logits.
        remember: reuse for the next photo what the unmodified model gave for a text without image.
            This saves VHR a pass. It is wrong if weights or adapters change inside the block.

    Raises:
        UnknownNameError: no method of that name. ModelError: the model lacks what a method needs.
        SettingError: a method is set to act in a layer that the model does not have.
    """
    return Fix(_inside(model), resolve(method), remember=remember)


class Fix:
    """Methods attached to a model: a context manager, and a handle with `.remove()`, `.report()`
    and `.scores()`.
    """

    layer: ClassVar[type[Layer]] = Layer

    def __init__(
        self, model: PreTrainedModel, methods: tuple[Method, ...], *, remember: bool = False
    ) -> None:
        self.model, self.methods = model, methods
        self.family: Family = family_of(model)
        self.depth = len(self.family.layers)
        acting = [_layers_of(method, self.depth) for method in methods]
        self._own = own_decoding(methods)
        if is_attached(self.family.decoder):
            raise ModelError(
                "this model is fixed already; name all methods at once, as in 'var+vhr'"
            )
        follower = self._follower = Follower(model, self.family, len(methods))
        self._lives = self._living(acting, remember)
        follower.lives = tuple(self._lives.values())
        self._attached = Attached()
        try:
            self._attach(follower, acting)
        except BaseException:
            self.remove()
            raise

    def _living(self, acting: list[frozenset[int]], remember: bool) -> dict[Watch[Any], Live[Any]]:
        """The twins of all watches; those that other watches need come first."""
        layers: dict[Watch[Any], frozenset[int]] = {}
        for method, here in zip(self.methods, acting, strict=True):
            for watch in closure(method.watches(self.depth)):
                layers[watch] = layers.get(watch, frozenset()) | here
        follower = self._follower
        return {
            watch: watch.live(
                Host(
                    model=self.model,
                    family=self.family,
                    layers=here,
                    unedited=follower.turns.unedited,
                    taps=follower.taps,
                    running=lambda: follower.turns.now is not None,
                    aside=follower.turns.aside,
                    remember=remember,
                )
            )
            for watch, here in layers.items()
        }

    def _attach(self, follower: Follower, acting: list[frozenset[int]]) -> None:
        attached, family = self._attached, self.family
        layers = [
            self.layer(
                number,
                self.depth,
                follower,
                tuple((i, m) for i, m in enumerate(self.methods) if number in acting[i]),
                self._lives,
            )
            for number in range(self.depth)
        ]
        sites = {module: layers[module.__dict__["layer_idx"]] for module in family.attentions}
        attached.attention(self.model, family.decoder, family.config_key, sites)
        numbers = {layer.number for layer in sites.values()}
        for block, layer in zip(family.layers, layers, strict=True):
            if (hook := layer.hidden.hook("layer")) is not None:
                attached.after(block, hook)
            if (hook := layer.hidden.hook("mlp")) is not None:
                try:
                    attached.after(mlp_of(block), hook)
                except ModelError as error:
                    raise ModelError(f"{type(self.model).__name__}: {error}") from None
        follower.acting = frozenset(layer.number for layer in layers if layer.attends) & numbers
        for live in self._lives.values():
            live.attach(attached)
        follower.attach(attached, NextToken(self.methods, self.depth, self._lives).edit, self._own)

    def remove(self) -> None:
        """Detach, and restore the model, its configuration and its hooks. May be called twice."""
        self._attached.undo()

    def __enter__(self) -> Fix:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def report(self) -> list[Report]:
        """What every method did since the last prompt began: heads, sinks, rows edited."""
        text = self._follower.last
        return [
            report_of(number, method, text, self._lives, self.depth, self._follower.unreached)
            for number, method in enumerate(self.methods)
        ]

    def scores(self, method: int = 0) -> Tensor:
        """The head scores that a method gave the last prompt: batch layers heads. NaN in layers
        that it did not score.
        """
        text, found = self._follower.last, dict[int, Tensor]()
        for watch in self.methods[method].watches(self.depth):
            if isinstance(watch, PickedHeads) and text is not None:
                acting = self.methods[method].acts_in(self.depth)
                found = {n: s for n, s in watch.scores_in(text).items() if n in acting}
        if not found:
            raise InputError(
                "no heads are scored yet: run a prompt with an image through the model first"
            )
        some = next(iter(found.values()))
        blank = torch.full_like(some, torch.nan)
        return torch.stack(
            [found.get(layer, blank).to(some.device) for layer in range(self.depth)], 1
        )


def _inside(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model that is meant: itself, or what an adapter or a compiler wraps."""
    found = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if found is None:
        raise ModelError(f"{type(model).__name__} contains no model of transformers")
    return found


def _layers_of(method: Method, depth: int) -> frozenset[int]:
    """The layers in which a method acts; none where it edits the next token's logits alone, and
    does not say itself where it looks.
    """
    acting = method.acts_in(depth)
    if beyond := [layer for layer in acting if not 0 <= layer < depth]:
        name = method.method_name()
        raise SettingError(f"{name}: there is no layer {beyond[0]}; this model has {depth}, from 0")
    if method.edits() == ("next_token_logits",) and type(method).acts_in is Method.acts_in:
        return frozenset()
    return frozenset(acting)
