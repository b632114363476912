"""Tensor operations of a decoding step, counted at the dispatcher; views are left out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from cases import cache_of, held
from torch.utils._python_dispatch import TorchDispatchMode

import lvlm_fix as lf
from lvlm_fix.tools.miniature import miniature

__all__ = ["added", "operations"]

# what costs no launch: views, and the bookkeeping of shapes
FREE = {
    "view", "_unsafe_view", "t", "transpose", "expand", "unsqueeze", "squeeze", "slice", "select",
    "permute", "unbind", "split", "detach", "alias", "as_strided", "reshape", "_reshape_alias",
    "is_same_size", "sym_size", "narrow", "split_with_sizes", "chunk", "lift_fresh", "unfold",
}  # fmt: skip
# what makes the host wait for the device
WAITS = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal"}


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operations(methods: list[lf.Method]) -> tuple[Counter[str], int]:
    """What one decoding step dispatches, and in how many layers."""
    model, inputs = miniature("llava", samples=1)
    token = torch.tensor([[5]])
    with lf.fix(model, methods):
        cache = cache_of(model(**inputs, use_cache=True))
        model(input_ids=token, **held(model, cache))
        with _Counted() as counted:
            model(input_ids=token, **held(model, cache))
    return counted.found, len(model.get_decoder().layers)


def added(methods: list[lf.Method]) -> tuple[float, Counter[str], Counter[str]]:
    """Operations that methods add per layer; by name, what they add, and what makes the
    host wait.
    """
    (plain, layers), (found, _) = operations([]), operations(methods)
    more = Counter({name: found[name] - plain[name] for name in found | plain})
    waits = Counter({name: count for name, count in more.items() if name in WAITS and count > 0})
    return sum(more.values()) / layers, more, waits
