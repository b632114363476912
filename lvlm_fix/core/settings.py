"""Settings of methods: fields of a frozen dataclass with a meaning, a source and a range."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lvlm_fix.errors import SettingError

__all__ = ["check_settings", "setting"]


def setting(
    default: Any,
    doc: str,
    source: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    options: tuple[str, ...] = (),
) -> Any:
    """A field of a method: its default, its meaning with unit, the default's source, and its range.

    `low` and `high` bound a number (inclusive); `options` lists the choices of a string.
    """
    return dataclasses.field(
        default=default,
        metadata={"doc": doc, "source": source, "low": low, "high": high, "options": options},
    )


def check_settings(method: Any) -> None:
    """Raise `SettingError` if a setting of the dataclass is out of its declared range."""
    for field in dataclasses.fields(method):
        if field.metadata:
            _check(field, getattr(method, field.name))


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise `SettingError` unless `value` has the kind of the default and lies in the declared
    range.
    """
    name, declared = field.name, field.metadata
    if options := declared["options"]:
        if value not in options:
            raise SettingError(f"{name} must be one of {', '.join(options)}, got {value!r}")
        return
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise SettingError(f"{name} must be true or false, got {value!r}")
        return
    if isinstance(field.default, str):
        if not field.default:  # a file: whoever reads it says what is wrong with it
            return
        if not (isinstance(value, str) and value.strip()):
            raise SettingError(f"{name} must be words, got {value!r}")
        return
    if value is None and field.default is None:
        return
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) != (field.default is None or isinstance(field.default, tuple)):
        raise SettingError(
            f"{name} must be {'a list of whole numbers' if field.default is None else 'a number'},"
            f" got {value!r}"
        )
    whole = field.default is None or isinstance(field.default, int)
    for number in numbers:
        if (
            isinstance(number, bool)
            or not isinstance(number, int if whole else (int, float))
            or not math.isfinite(number)
        ):
            raise SettingError(
                f"{name} must be a {'whole ' if whole else ''}number, got {number!r}"
            )
        if number < declared["low"]:
            raise SettingError(f"{name} must be >= {declared['low']:g}, got {number:g}")
        if number > declared["high"]:
            raise SettingError(f"{name} must be <= {declared['high']:g}, got {number:g}")
