"""The photos that a run left out because they cannot be read: `left-out.jsonl` in its folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from lvlm_eval.records import read, write
from lvlm_fix.errors import DataError
from lvlm_fix.tools.photos import LEFT_OUT, Broken

__all__ = ["LeftOut", "end", "is_broken", "read_left_out", "without",
           "write_left_out"]  # fmt: skip

LeftOut = dict[int, str]
"""Image id -> why the photo cannot be read."""
FILE = "left-out.jsonl"


def read_left_out(folder: Path) -> LeftOut:
    """The photos without text in a run folder. Raises `DataError` for a damaged file."""
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return {int(one["image_id"]): str(one["why"]) for one in read(path)}
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error!r}; run the same command again") from None


def write_left_out(folder: Path, found: LeftOut) -> None:
    """Write the list, or take it away where every photo has its texts."""
    if found:
        write(folder / FILE, ({"image_id": key, "why": found[key]} for key in sorted(found)))
    else:
        (folder / FILE).unlink(missing_ok=True)


def is_broken(path: Path) -> bool:
    """Whether a photo that could not be read still cannot."""
    return Broken().open(path) is None


def without(many: int) -> str:
    """How many photos have no text, in words; empty for none."""
    whose = "photo has" if many == 1 else "photos have"
    return f"{many} broken {whose} no text and no part in the figures" if many else ""


def end(found: Mapping[int, str], of: int) -> None:
    """Name the photos on standard error and raise `SystemExit` with `LEFT_OUT`, if there are
    any.
    """
    for key in sorted(found):
        print(f"lvlm-fix: photo {key}: {found[key]}", file=sys.stderr)
    if found:
        print(
            f"lvlm-fix: {len(found)} of {of} photos are broken and have no text; everything else"
            " is done. Mend them and give the same command again to include them",
            file=sys.stderr,
        )
        raise SystemExit(LEFT_OUT)
