"""Make a vision-language model say fewer things that are not in the picture, without training."""

from lvlm_fix.apply import Fix, fix
from lvlm_fix.errors import DataError, ImageError, InputError, LvlmFixError, ModelError, SettingError, UnknownNameError
from lvlm_fix.families import Family, family_of
from lvlm_fix.heads.score import score_heads
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.method import Method, Seen, setting
from lvlm_fix.methods import (
    HGAI,
    ICD,
    M3ID,
    METHODS,
    PAI,
    SPIN,
    VAF,
    VAR,
    VCD,
    VHR,
    DoLa,
    RandomHeads,
    parse_methods,
)
from lvlm_fix.models import answer, load, open_image
from lvlm_fix.report import Report

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "DoLa",
    "Family",
    "Fix",
    "HGAI",
    "HeadTable",
    "ICD",
    "ImageError",
    "InputError",
    "LvlmFixError",
    "M3ID",
    "METHODS",
    "Method",
    "ModelError",
    "PAI",
    "RandomHeads",
    "Report",
    "SPIN",
    "Seen",
    "SettingError",
    "UnknownNameError",
    "VAF",
    "VAR",
    "VCD",
    "VHR",
    "answer",
    "family_of",
    "fix",
    "load",
    "open_image",
    "parse_methods",
    "score_heads",
    "setting",
]
