"""The one list of cases of the contract suite: each method with neutral and with acting settings,
and combinations.
"""

from __future__ import annotations

from typing import Any

import lvlm_fix as lf
from lvlm_fix.core.call import Signature, cache_in
from lvlm_fix.tools.probing import PROBES

CASES: dict[str, tuple[Any, Any]] = PROBES | {
    "var-received": (
        lf.VAR(share=0.0, rule="received", received=1.2, ratio=0.0),
        lf.VAR(rule="received", received=1.2, ratio=0.0, image_share=0.05),
    ),
    "var+vhr": ([PROBES["var"][0], PROBES["vhr"][0]], [PROBES["var"][1], lf.VHR(strength=1.5)]),
}
# methods that decode: only `generate` shows what they do
OPERATED: dict[str, tuple[Any, Any]] = {"opera": (lf.OPERA(strength=0.0, beams=1), lf.OPERA())}


def held(model: Any, cache: Any) -> dict[str, Any]:
    """A cache, under the name that this release takes it by."""
    return {Signature(model).cache: cache}


def cache_of(output: Any) -> Any:
    """The cache in what a model, or its `generate`, returned."""
    return cache_in(output)
