"""What a package that brings a method imports: `Method`, what its edits see, and `setting`."""

from lvlm_fix.core.at import AtLayer, AtToken, Watch
from lvlm_fix.core.method import PLACES, Method
from lvlm_fix.core.settings import setting

__all__ = ["PLACES", "AtLayer", "AtToken", "Method", "Seen", "Watch", "setting"]

Seen = AtLayer  # its name in release 0.1
