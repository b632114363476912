"""Tensor operations of a decoding step, counted at the dispatcher; views are left out."""

from __future__ import annotations

from collections import Counter

import torch
from cases import cache_of, held

import lvlm_fix as lf
from lvlm_fix.tools.counting import WAITS, Counted
from lvlm_fix.tools.miniature import miniature

__all__ = ["added", "operations"]


@torch.no_grad()
def operations(methods: list[lf.Method]) -> tuple[Counter[str], int]:
    """What one decoding step dispatches, and in how many layers."""
    model, inputs = miniature("llava", samples=1)
    token = torch.tensor([[5]])
    with lf.fix(model, methods):
        cache = cache_of(model(**inputs, use_cache=True))
        model(input_ids=token, **held(model, cache))
        with Counted() as counted:
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
