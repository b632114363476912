"""The attention function that is registered with the model and calls the wrapped one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lvlm_fix.private import implementation, register_attention

__all__ = ["PREFIX", "SITE", "Attend", "Tap", "register"]

Attend = Callable[..., tuple[Tensor, Tensor | None]]
# a layer and its attention function -> the function that serves in its place
Tap = Callable[[int, Attend], Attend]
# the attribute of an attention module that holds the running fix; present only while one runs
SITE = "_lvlm_fix"
PREFIX = "lvlm_fix_"


def register(wrapped: str) -> str:
    """Register the attention function that wraps `wrapped`; return its name."""
    name = PREFIX + wrapped

    def attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        plain = implementation(module, wrapped)
        site = module.__dict__.get(SITE)
        if site is None:
            return plain(module, *args, **kwargs)
        return site.attend(plain, module, *args, **kwargs)

    register_attention(name, attention, wrapped)
    return name
