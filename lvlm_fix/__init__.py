"""Make a vision-language model say fewer things that are not in the picture, without training.

Names are loaded when they are first used: importing the package loads neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvlm_fix.ask.asked import asked as asked
    from lvlm_fix.ask.asker import Asker as Asker
    from lvlm_fix.ask.wording import Wording as Wording
    from lvlm_fix.attach import Fix as Fix
    from lvlm_fix.attach import fix as fix
    from lvlm_fix.core.report import Report as Report
    from lvlm_fix.errors import DataError as DataError
    from lvlm_fix.errors import ImageError as ImageError
    from lvlm_fix.errors import InputError as InputError
    from lvlm_fix.errors import LvlmFixError as LvlmFixError
    from lvlm_fix.errors import ModelError as ModelError
    from lvlm_fix.errors import PluginError as PluginError
    from lvlm_fix.errors import SettingError as SettingError
    from lvlm_fix.errors import UnknownNameError as UnknownNameError
    from lvlm_fix.families import Family as Family
    from lvlm_fix.families import family_of as family_of
    from lvlm_fix.heads.table import HeadTable as HeadTable
    from lvlm_fix.images import open_image as open_image
    from lvlm_fix.method import AtLayer as AtLayer
    from lvlm_fix.method import AtToken as AtToken
    from lvlm_fix.method import Method as Method
    from lvlm_fix.method import Seen as Seen
    from lvlm_fix.method import Watch as Watch
    from lvlm_fix.method import setting as setting
    from lvlm_fix.methods import *  # noqa: F403
    from lvlm_fix.models import answer as answer
    from lvlm_fix.models import load as load
    from lvlm_fix.objects.spots import listed as listed
    from lvlm_fix.tools.scoring import score_heads as score_heads

__version__ = "0.2.0"

ROOMS = {
    "lvlm_fix.ask.asked": ("asked",),
    "lvlm_fix.ask.asker": ("Asker",),
    "lvlm_fix.ask.wording": ("Wording",),
    "lvlm_fix.attach": ("Fix", "fix"),
    "lvlm_fix.errors": (
        "DataError", "ImageError", "InputError", "LvlmFixError", "ModelError", "PluginError",
        "SettingError", "UnknownNameError",
    ),
    "lvlm_fix.families": ("Family", "family_of"),
    "lvlm_fix.heads.table": ("HeadTable",),
    "lvlm_fix.images": ("open_image",),
    "lvlm_fix.method": ("AtLayer", "AtToken", "Method", "Seen", "Watch", "setting"),
    "lvlm_fix.models": ("answer", "load"),
    "lvlm_fix.objects.spots": ("listed",),
    "lvlm_fix.core.report": ("Report",),
    "lvlm_fix.tools.scoring": ("score_heads",),
}  # fmt: skip
OWNERS = {name: room for room, names in ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, from the module that owns it. Every name not listed here is a method."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in OWNERS:
        found = getattr(importlib.import_module(OWNERS[name]), name)
    else:
        methods = importlib.import_module("lvlm_fix.methods")
        if name not in methods.__all__:
            try:
                return importlib.import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        found = getattr(methods, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    from lvlm_fix.methods import __all__ as methods

    return sorted({*globals(), *OWNERS, *methods})
