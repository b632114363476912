"""The one list of cases of the contract suite: each method with neutral and with acting settings,
and combinations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import lvlm_fix as lf
from lvlm_fix.core.call import Signature, cache_in
from lvlm_fix.heads.curves import Curves
from lvlm_fix.tools.probing import PROBES
from lvlm_fix.vectors.vectors import Vectors


def vectors_of(layers: range, width: int, seed: int = 0, length: float = 1.0) -> Vectors:
    """Vectors of about this length in these layers."""
    rows = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(seed))
    return Vectors(dict(zip(layers, length * rows / width**0.5, strict=True)))


def shifts_of(layers: range, heads: int, dim: int, seed: int = 0) -> dict[int, torch.Tensor]:
    """Vectors of PTI in these layers."""
    made = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(2, 2, heads, dim, generator=made) for layer in layers}


def curves_of(layers: int, heads: int, seed: int = 0) -> Curves:
    """Curves of which some heads give right words more, and others less."""
    rng = np.random.default_rng(seed)
    real, invented = rng.uniform(0.02, 0.06, (2, layers, heads))
    return Curves(real, invented, 3, 2, 2, "made-up", None, "Describe.", {})


CURVES = curves_of(5, 6)  # for the miniatures
SHIFTS = shifts_of(range(1, 4), 2, 8)  # for the miniatures
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
    "adaiat": (
        lf.AdaIAT(curves=CURVES, strength=0.0),
        lf.AdaIAT(curves=CURVES, level=99.0),
    ),
    "iat": (lf.IAT(strength=0.0), lf.IAT()),
    "pti": (lf.PTI(vectors=SHIFTS, keys=0.0, values=0.0), lf.PTI(vectors=SHIFTS)),
    "savva": (lf.SAVVA(image=1.0, text=1.0), lf.SAVVA(image=1.5)),
    "yes-push": (
        lf.YesPush(yes=(5, 6), no=(7, 8), margin=0.0),
        lf.YesPush(yes=(5, 6), no=(7, 8), margin=2.0, least=0.0),
    ),
    "var+vhr": ([PROBES["var"][0], PROBES["vhr"][0]], [PROBES["var"][1], lf.VHR(strength=1.5)]),
}
WRITTEN = (
    "adaiat",
    "iat",
    "savva",
)  # these act on what is written: not in a pass over the prompt alone
# methods that decode: only `generate` shows what they do
OPERATED: dict[str, tuple[Any, Any]] = {"opera": (lf.OPERA(strength=0.0, beams=1), lf.OPERA())}


def held(model: Any, cache: Any) -> dict[str, Any]:
    """A cache, under the name that this release takes it by."""
    return {Signature(model).cache: cache}


def cache_of(output: Any) -> Any:
    """The cache in what a model, or its `generate`, returned."""
    return cache_in(output)
