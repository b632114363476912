"""Lists of objects to ask about, as settings name them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from lvlm_fix.errors import SettingError

__all__ = ["named"]


def named(setting: str) -> tuple[str, ...]:
    """Words joined by commas; "open": the list of this package (docs/ask.md); "@FILE": a file with
    one word a line and "#" before remarks. Lower case, each once. Raises `SettingError`.
    """
    if setting.startswith("@"):
        words = _words_in(Path(setting[1:]))
        if not words:
            raise SettingError(f"{setting[1:]} holds no objects, one word a line")
    elif setting == "open":
        words = _words_in(Path(str(files("lvlm_fix.objects") / "open.txt")))
    else:
        words = setting.split(",")
    return tuple(dict.fromkeys(word.strip().lower() for word in words if word.strip()))


def _words_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the list of objects {path} cannot be read: {error}") from None
    return [line for line in lines if line.strip() and not line.startswith("#")]
