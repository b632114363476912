"""The methods by name. A paper is one file here and one line in `METHODS`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_fix.errors import SettingError, UnknownNameError
from lvlm_fix.method import Method
from lvlm_fix.methods.act import ACT
from lvlm_fix.methods.adaiat import AdaIAT
from lvlm_fix.methods.adhh import ADHH
from lvlm_fix.methods.damro import DAMRO
from lvlm_fix.methods.deco import DeCo
from lvlm_fix.methods.dola import DoLa
from lvlm_fix.methods.eah import EAH
from lvlm_fix.methods.eos_boost import EosBoost
from lvlm_fix.methods.guide import Guide
from lvlm_fix.methods.hgai import HGAI
from lvlm_fix.methods.iat import IAT
from lvlm_fix.methods.icd import ICD
from lvlm_fix.methods.ilvad import ILVAD
from lvlm_fix.methods.m3id import M3ID
from lvlm_fix.methods.mod import MoD
from lvlm_fix.methods.only import ONLY
from lvlm_fix.methods.opera import OPERA
from lvlm_fix.methods.pai import PAI
from lvlm_fix.methods.paint import PAINT
from lvlm_fix.methods.plausible_only import PlausibleOnly
from lvlm_fix.methods.pti import PTI
from lvlm_fix.methods.random_heads import RandomHeads
from lvlm_fix.methods.random_vector import RandomVector
from lvlm_fix.methods.savva import SAVVA
from lvlm_fix.methods.sid import SID
from lvlm_fix.methods.sla import SLA
from lvlm_fix.methods.spin import SPIN
from lvlm_fix.methods.steer import Steer
from lvlm_fix.methods.truncate import Truncate
from lvlm_fix.methods.vaf import VAF
from lvlm_fix.methods.var import VAR
from lvlm_fix.methods.vcd import VCD
from lvlm_fix.methods.vhr import VHR
from lvlm_fix.methods.vista import VISTA
from lvlm_fix.methods.vti import VTI
from lvlm_fix.methods.yes_push import YesPush
from lvlm_fix.plugins import Methods

__all__ = [
    "ACT",
    "ADHH",
    "DAMRO",
    "EAH",
    "HGAI",
    "IAT",
    "ICD",
    "ILVAD",
    "M3ID",
    "METHODS",
    "ONLY",
    "OPERA",
    "PAI",
    "PAINT",
    "SAVVA",
    "SID",
    "PTI",
    "SLA",
    "SPIN",
    "VAF",
    "VAR",
    "VCD",
    "VHR",
    "VISTA",
    "VTI",
    "AdaIAT",
    "DeCo",
    "DoLa",
    "EosBoost",
    "Guide",
    "MoD",
    "PlausibleOnly",
    "RandomHeads",
    "RandomVector",
    "Steer",
    "Truncate",
    "YesPush",
    "parse_methods",
    "resolve",
]

# these, and what other packages bring
METHODS = Methods(
    ACT, AdaIAT, ADHH, DAMRO, DeCo, DoLa, EAH, EosBoost, Guide, HGAI, IAT, ICD, ILVAD, M3ID, MoD,
    ONLY, OPERA, PAI, PAINT, PlausibleOnly, PTI, RandomHeads, RandomVector, SAVVA, SID, SLA, SPIN,
    Steer, Truncate, VAF, VAR, VCD, VHR, VISTA, VTI, YesPush,
)  # fmt: skip


def parse_methods(names: str, settings: Mapping[str, str] | None = None) -> tuple[Method, ...]:
    """Methods from names joined by "+" and settings such as {"vhr.strength": "1.5"}; "none" is no
    method.

    Raises:
        UnknownNameError: no method of that name. SettingError: no such setting, or out of its
        range.
        PluginError: another package brings a method of that name that cannot be used.
    """
    values: dict[str, dict[str, Any]] = {}
    for key, text in (settings or {}).items():
        name, _, setting = key.partition(".")
        values.setdefault(name, {})[setting] = _value(text)
    chosen = []
    for name in (part.strip().lower() for part in names.split("+")):
        if name in ("none", ""):
            continue
        if name not in METHODS:
            raise UnknownNameError(
                f"there is no method {name!r}; there are: none, {', '.join(METHODS)}"
            )
        kind, given = METHODS[name], values.get(name, {})
        known = [field for field, info in kind.__dataclass_fields__.items() if info.metadata]
        if wrong := [setting for setting in given if setting not in known]:
            raise SettingError(f"{name} has no setting {wrong[0]!r}; it has: {', '.join(known)}")
        chosen.append(kind(**given))
    return tuple(chosen)


def resolve(method: str | Method | Sequence[str | Method]) -> tuple[Method, ...]:
    """What `fix` accepts, as methods in order."""
    if isinstance(method, str):
        return parse_methods(method)
    if isinstance(method, Method):
        return (method,)
    return tuple(one for item in method for one in resolve(item))


def _value(text: str) -> Any:
    """A setting written on the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return tuple(value) if isinstance(value, list) else value
