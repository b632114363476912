"""`Attached`: everything that was hooked or switched on a model, and how to undo it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.core.attention import PREFIX, SITE, register
from lvlm_fix.errors import ModelError
from lvlm_fix.families import entering
from lvlm_fix.private import implementation_of, switch

__all__ = ["Attached", "is_attached"]


class Attached:
    """Changes to a model that are undone in reverse order, once."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def undo(self) -> None:
        """Restore everything. May be called twice."""
        while self._undo:
            self._undo.pop()()

    def call(self, undo: Callable[[], Any]) -> None:
        """Have `undo` called at the end."""
        self._undo.append(undo)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of one object; `undo` brings its old value back."""
        before = owner.__dict__.get(name)
        owner.__dict__[name] = value

        def undo() -> None:
            if before is None:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = before

        self._undo.append(undo)

    def entering(self, layer: nn.Module, number: int, keep: Callable[[int, Tensor], None]) -> None:
        """Call `keep(number, hidden states)` with what enters a decoder layer."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(number, entering(args, kwargs))

        self._undo.append(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args)` before a module."""
        self._undo.append(module.register_forward_pre_hook(hook).remove)

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, output)` after a module; what it returns is the output."""
        self._undo.append(module.register_forward_hook(hook).remove)

    def attention(
        self, model: PreTrainedModel, part: PreTrainedModel, key: str, sites: dict[nn.Module, Any]
    ) -> None:
        """Put `sites` in the attention modules of a part, and let it call their `attend`.

        Raises `ModelError` if the part does not use the attention interface.
        """
        wrapped = implementation_of(part)
        name = register(wrapped)
        self._undo.append(lambda: implementation_of(part) == name and switch(model, key, wrapped))
        switch(model, key, name)
        if implementation_of(part) != name:
            raise ModelError(
                f"{type(model).__name__}: its {type(part).__name__} does not use the attention "
                "interface"
            )
        for module, site in sites.items():
            self.attribute(module, SITE, site)


def is_attached(part: PreTrainedModel) -> bool:
    """Whether methods are attached to this part of a model already."""
    return implementation_of(part).startswith(PREFIX)
