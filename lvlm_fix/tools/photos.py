"""Photos read one after the other at length: one that breaks is left out, and named at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image

from lvlm_fix.errors import ImageError
from lvlm_fix.images import open_image

__all__ = ["LEFT_OUT", "Broken"]

LEFT_OUT = 3
"""Exit status: everything was done except for photos that are broken."""
T = TypeVar("T")


class Broken:
    """The photos that could not be read, and why, in the order they were met."""

    def __init__(self) -> None:
        self.why: dict[Path, str] = {}

    def open(self, path: Path) -> Image.Image | None:
        """The photo as `open_image` reads it; None, and noted, where it cannot be read."""
        try:
            return open_image(path)
        except ImageError as error:
            self.why[path] = str(error)
            return None

    def opened(self, paths: Iterable[tuple[T, Path]]) -> Iterator[tuple[T, Image.Image]]:
        """What belongs to each photo, and the photo; those that can be read."""
        for what, path in paths:
            if (image := self.open(path)) is not None:
                yield what, image

    def end(self) -> None:
        """Name them on standard error and raise `SystemExit` with `LEFT_OUT`, if there are any."""
        for why in self.why.values():
            print(f"lvlm-fix: {why}", file=sys.stderr)
        if self.why:
            many = len(self.why)
            print(
                f"lvlm-fix: {many} {'photo is' if many == 1 else 'photos are'} broken and left out;"
                " everything else is done",
                file=sys.stderr,
            )
            raise SystemExit(LEFT_OUT)
