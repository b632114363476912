"""What commands share: options, settings, and where they print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lvlm_fix.errors import SettingError

__all__ = [
    "AsJson",
    "Model",
    "ask_settings",
    "counts_in",
    "emit",
    "err",
    "out",
    "settings_of",
    "ranged",
]

out, err = Console(), Console(stderr=True)
Model = Annotated[
    str, typer.Option(help='a hub name, a folder, or "tiny", the embedded small test model')
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


def emit(document: dict[str, Any]) -> None:
    """The one JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False))


def settings_of(pairs: Sequence[str]) -> dict[str, str]:
    """`method.setting=value` pairs of `--set`; `@FILE` stands for the pairs in a file of
    `eval tune`.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        if pair.startswith("@"):
            out |= _settings_in(Path(pair[1:]))
        elif "=" not in pair or "." not in pair.partition("=")[0]:
            raise SettingError(f"--set takes method.setting=value or @FILE, got {pair!r}")
        else:
            key, _, value = pair.partition("=")
            out[key] = value
    return out


def _settings_in(path: Path) -> dict[str, str]:
    """The pairs of a settings file: JSON, "method.setting" -> value."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingError(f"--set @{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all("." in key for key in found):
        raise SettingError(f"--set @{path}: not a settings file; it maps method.setting to a value")
    return {key: str(value) for key, value in found.items()}


def ask_settings(
    settings: dict[str, str], use: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The settings of `--ask`, and those of the methods. Raises `SettingError` without `use`."""
    asking = {key[4:]: value for key, value in settings.items() if key.startswith("ask.")}
    if asking and use is None:
        raise SettingError(f"--set ask.{next(iter(asking))} goes with --ask mark, drop or rewrite")
    return asking, {k: value for k, value in settings.items() if not k.startswith("ask.")}


def counts_in(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers joined by commas."""
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise SettingError(f"{option} takes whole numbers joined by commas, got {text!r}")
    return tuple(map(int, text.split(",")))


def ranged(ratio: tuple[float, float, float]) -> str:
    """A median with its quartiles."""
    middle, low, high = ratio
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"
