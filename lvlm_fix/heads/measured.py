"""Figures by layer and head, with where they come from, as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lvlm_fix.errors import DataError
from lvlm_fix.files import write_whole

__all__ = ["read", "reading", "write"]


def write(path: str | Path, form: str, record: dict[str, Any]) -> None:
    """Write as JSON of format `form`, atomically; arrays as lists."""
    document = {"format": form} | {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in record.items()
    }
    write_whole(path, json.dumps(document, indent=1) + "\n")


def read(path: str | Path, form: str, arrays: tuple[str, str]) -> dict[str, Any]:
    """What was written, two of its values as `arrays` of layers × heads; call it while `reading`.

    Raises `ValueError` or `KeyError` for another format or shape.
    """
    record = json.loads(Path(path).read_text())
    if record.pop("format") != form:
        raise ValueError("another format")
    one, other = (np.asarray(record[name], float) for name in arrays)
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(
            f"{arrays[0]} {one.shape} and {arrays[1]} {other.shape} are not layers × heads"
        )
    return record | dict(zip(arrays, (one, other), strict=True))


@contextmanager
def reading(path: str | Path, what: str, maker: str) -> Generator[None]:
    """Whatever is wrong with the file at `path` becomes one `DataError`: it is no `what`, and
    `maker` says what makes one.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read {str(path)!r} as {what}: {error}; {maker}") from error
