"""The one list of cases of the contract suite: each method with neutral and with acting settings."""

from __future__ import annotations

import lvlm_fix as lf

CASES = {
    "vhr": (lf.VHR(strength=1.0), lf.VHR(strength=2.0)),
    "var": (lf.VAR(share=0.0, threshold=1.4, ratio=0.1), lf.VAR(threshold=1.4, ratio=0.1, image_share=0.1)),
    "var-received": (
        lf.VAR(share=0.0, rule="received", received=1.2, ratio=0.0),
        lf.VAR(rule="received", received=1.2, ratio=0.0, image_share=0.05),
    ),
    "pai": (lf.PAI(strength=0.0), lf.PAI()),
    "hgai": (lf.HGAI(strength=0.0), lf.HGAI()),
    "vaf": (lf.VAF(image=1.0, system=1.0), lf.VAF()),
    "spin": (lf.SPIN(damping=1.0), lf.SPIN()),
    "random-heads": (lf.RandomHeads(strength=1.0), lf.RandomHeads()),
    "var+vhr": (
        [lf.VAR(share=0.0, threshold=1.4), lf.VHR(strength=1.0)],
        [lf.VAR(threshold=1.4, ratio=0.1), lf.VHR(strength=1.5)],
    ),
}
