"""Make a vision-language model say fewer things that are not in the picture, without training."""

from lvlm_fix import methods
from lvlm_fix.apply import Fix, fix
from lvlm_fix.errors import (
    DataError,
    ImageError,
    InputError,
    LvlmFixError,
    ModelError,
    PluginError,
    SettingError,
    UnknownNameError,
)
from lvlm_fix.families import Family, family_of
from lvlm_fix.heads.score import score_heads
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.method import Method, Seen, setting
from lvlm_fix.methods import *  # noqa: F403 - the methods are listed once, there
from lvlm_fix.models import answer, load, open_image
from lvlm_fix.report import Report

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "Family",
    "Fix",
    "HeadTable",
    "ImageError",
    "InputError",
    "LvlmFixError",
    "Method",
    "ModelError",
    "PluginError",
    "Report",
    "Seen",
    "SettingError",
    "UnknownNameError",
    "answer",
    "family_of",
    "fix",
    "load",
    "open_image",
    "score_heads",
    "setting",
]
__all__ += methods.__all__
