"""Make a vision-language model say fewer things that are not in the picture, without training."""

from lvlm_fix.apply import Fix, fix
from lvlm_fix.errors import DataError, ImageError, InputError, LvlmFixError, ModelError, SettingError, UnknownNameError
from lvlm_fix.families import Family, family_of
from lvlm_fix.heads.table import HeadTable, score_heads
from lvlm_fix.method import Method, Seen, setting
from lvlm_fix.methods import METHODS, VAR, VHR, parse_methods
from lvlm_fix.models import answer, load, open_image
from lvlm_fix.report import Report

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "VAR",
    "VHR",
    "DataError",
    "Family",
    "Fix",
    "HeadTable",
    "ImageError",
    "InputError",
    "LvlmFixError",
    "Method",
    "ModelError",
    "Report",
    "Seen",
    "SettingError",
    "UnknownNameError",
    "answer",
    "family_of",
    "fix",
    "load",
    "open_image",
    "parse_methods",
    "score_heads",
    "setting",
]
