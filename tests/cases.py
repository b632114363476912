"""The one list of cases of the contract suite: each method with neutral and with acting settings,
and combinations.
"""

from __future__ import annotations

from typing import Any

import torch

import lvlm_fix as lf
from lvlm_fix.core.call import Signature, cache_in
from lvlm_fix.tools.probing import PROBES
from lvlm_fix.vectors.vectors import Vectors


def vectors_of(layers: range, width: int, seed: int = 0, length: float = 1.0) -> Vectors:
    """Vectors of about this length in these layers."""
    rows = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(seed))
    return Vectors(dict(zip(layers, length * rows / width**0.5, strict=True)))


SOME = vectors_of(range(1, 4), 48)  # for the miniatures
CASES: dict[str, tuple[Any, Any]] = PROBES | {
    "var-received": (
        lf.VAR(share=0.0, rule="received", received=1.2, ratio=0.0),
        lf.VAR(rule="received", received=1.2, ratio=0.0, image_share=0.05),
    ),
    "random-vector": (
        lf.RandomVector(vectors=SOME, strength=0.0),
        lf.RandomVector(vectors=SOME, seed=3),
    ),
    "steer": (lf.Steer(vectors=SOME, strength=0.0), lf.Steer(vectors=SOME)),
    "steer-kept": (
        lf.Steer(vectors=SOME, strength=0.0),
        lf.Steer(vectors=SOME, keep_norm=True, layers=(2,)),
    ),
    "vti": (lf.VTI(vectors=SOME, strength=0.0), lf.VTI(vectors=SOME)),
    "var+vhr": ([PROBES["var"][0], PROBES["vhr"][0]], [PROBES["var"][1], lf.VHR(strength=1.5)]),
}


def held(model: Any, cache: Any) -> dict[str, Any]:
    """A cache, under the name that this release takes it by."""
    return {Signature(model).cache: cache}


def cache_of(output: Any) -> Any:
    """The cache in what a model, or its `generate`, returned."""
    return cache_in(output)
