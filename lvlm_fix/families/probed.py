"""What was probed to work, family by family; `python -m lvlm_fix.families.probed` probes anew and writes it down.

Values are never guessed: "works" needs neutral settings bit-equal and acting settings that change the logits, on a
tiny random-weight model; "refused" is our own error; anything else is "unknown".
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from lvlm_fix.apply import fix
from lvlm_fix.errors import LvlmFixError
from lvlm_fix.families.miniature import MINIATURES, miniature
from lvlm_fix.method import Method
from lvlm_fix.methods import ACT, ADHH, EAH, HGAI, ICD, M3ID, PAI, PAINT, SPIN, VAF, VAR, VCD, VHR, DoLa, RandomHeads

__all__ = ["PROBES", "probe", "read_probed"]

FILE = "probed.json"
# by method: settings that must change nothing, and settings loose enough to act on random weights; for the tests too
PROBES: dict[str, tuple[Method, Method]] = {
    "act": (ACT(remaining=1.0, threshold=1.2), ACT(threshold=1.2)),
    "adhh": (ADHH(least=1.1), ADHH(least=0.1)),
    "dola": (DoLa(strength=0.0, plausible=0.0), DoLa()),
    "eah": (EAH(threshold=1.0), EAH()),
    "hgai": (HGAI(strength=0.0), HGAI()),
    "icd": (ICD(strength=0.0, plausible=0.0), ICD(tokens=(5, 6, 7))),
    "m3id": (M3ID(decay=0.0), M3ID(decay=0.2)),
    "pai": (PAI(strength=0.0, contrast=1.0), PAI()),
    "paint": (PAINT(local=0.0, summary=0.0, contrast=1.0), PAINT()),
    "random-heads": (RandomHeads(strength=1.0), RandomHeads()),
    "spin": (SPIN(damping=1.0), SPIN()),
    "vaf": (VAF(image=1.0, system=1.0), VAF()),
    "var": (VAR(share=0.0, threshold=1.4), VAR(threshold=1.4, ratio=0.1, image_share=0.05)),
    "vcd": (VCD(strength=0.0, plausible=0.0), VCD()),
    "vhr": (VHR(strength=1.0), VHR()),
}


def read_probed() -> list[dict[str, Any]]:
    """`{"family", "methods": {name: "works" | "refused" | "unknown"}}` of every probed family."""
    return json.loads((files("lvlm_fix.families") / FILE).read_text())


@torch.no_grad()
def probe(family: str) -> dict[str, Any]:
    """Probe every method on one family."""
    found = {}
    for name, (neutral, acting) in PROBES.items():
        model, inputs = miniature(family)
        plain = model(**inputs).logits
        try:
            with fix(model, neutral):
                same = torch.equal(model(**inputs).logits, plain)
            with fix(model, acting):
                differs = not torch.equal(model(**inputs).logits, plain)
            found[name] = "works" if same and differs else "unknown"
        except LvlmFixError:
            found[name] = "refused"
    return {"family": family, "methods": found}


def main() -> None:
    rows = [probe(family) for family in MINIATURES]
    (Path(__file__).parent / FILE).write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(row["family"], row["methods"])


if __name__ == "__main__":
    main()
