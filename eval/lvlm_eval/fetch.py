"""Fetch what a published table needs of COCO val2014 and POPE, where a folder lacks it."""

from __future__ import annotations

import json
import os
import random
import shutil
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, wrap_file

from lvlm_eval.coco import photos_in
from lvlm_fix.errors import DataError

__all__ = ["fetch_annotations", "fetch_photos", "fetch_questions", "val2014"]

COCO = "http://images.cocodataset.org"
POPE = (
    "https://raw.githubusercontent.com/AoiDragon/POPE/"
    "7ef3026faa9a89ed11fd508385fad652fdc6349f/output/coco"
)
ANNOTATIONS = ("instances_val2014.json", "captions_val2014.json")
LARGE = 10_000_000  # bytes; a bar is shown from there on


def fetch_annotations(data: Path) -> None:
    """`data/annotations` with the instances and captions of val2014 (a download of 241 MB).

    Raises:
        DataError: they are not there and cannot be had.
    """
    folder = data / "annotations"
    if all((folder / name).is_file() for name in ANNOTATIONS):
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "annotations_trainval2014.zip"
    _download(f"{COCO}/annotations/{archive.name}", archive)
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in ANNOTATIONS:
                part = folder / f"{name}.part"
                with packed.open(f"annotations/{name}") as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target)
                part.replace(folder / name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} is not what was expected: {error}; remove it") from None
    archive.unlink()


def val2014(data: Path, count: int, seed: int) -> list[int]:
    """`count` of the photos that the annotations of val2014 list, drawn by the seed, sorted."""
    path = data / "annotations" / ANNOTATIONS[0]
    try:
        known = sorted(image["id"] for image in json.loads(path.read_text())["images"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} lists no photos: {error}") from None
    return sorted(random.Random(seed).sample(known, min(count, len(known))))


def fetch_photos(data: Path, ids: Sequence[int]) -> None:
    """Put the photos that are missing into `data/val2014`. Raises `DataError`."""
    folder = data / "val2014"
    folder.mkdir(parents=True, exist_ok=True)
    missing = sorted(set(ids) - photos_in(folder).keys())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("photos", total=len(missing))
        for number in missing:
            name = f"COCO_val2014_{number:012d}.jpg"
            _download(f"{COCO}/val2014/{name}", folder / name)
            progress.advance(bar)


def fetch_questions(data: Path) -> list[Path]:
    """POPE's three files of questions, in `data/pope`. Raises `DataError`."""
    folder = data / "pope"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")]
    for path in files:
        if not path.is_file():
            _download(f"{POPE}/{path.name}", path)
    return files


def _download(address: str, path: Path) -> None:
    """Atomically. Raises `DataError` that names what to put where by hand."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, part.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            shown = Console(stderr=True, quiet=size < LARGE)
            with wrap_file(answer, size, description=path.name, console=shown) as source:
                while block := source.read(1 << 20):
                    file.write(block)
        if size and part.stat().st_size != size:
            raise OSError(f"{part.stat().st_size} of {size} bytes arrived")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{address} could not be fetched ({error}); put it at {path}") from None
