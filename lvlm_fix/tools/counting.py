"""Tensor operations, and waits of the host, counted at the dispatcher; views are left out."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["WAITS", "Counted", "Waits"]

# what costs no launch: views, and the bookkeeping of shapes
FREE = {
    "view", "_unsafe_view", "t", "transpose", "expand", "unsqueeze", "squeeze", "slice", "select",
    "permute", "unbind", "split", "detach", "alias", "as_strided", "reshape", "_reshape_alias",
    "is_same_size", "sym_size", "narrow", "split_with_sizes", "chunk", "lift_fresh", "unfold",
}  # fmt: skip
# what makes the host wait for the device
WAITS = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal"}


class Counted(TorchDispatchMode):
    """A context that counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Waits:
    """A context that counts what CUDA says of waits of the host."""

    def __init__(self) -> None:
        self.found = 0
        self._warnings = warnings.catch_warnings(record=True)

    def __enter__(self) -> Waits:
        self._seen: Any = self._warnings.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.found = sum("synchronizing" in str(one.message) for one in self._seen)
        self._warnings.__exit__(*error)
