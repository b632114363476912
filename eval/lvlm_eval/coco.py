"""Photos and what is in them: a COCO folder, or a folder of photos with an objects file.

The truth of a photo is its instance categories and the nodes that its reference captions name.
Reading COCO's annotations takes a minute, so the result is kept as JSON and rebuilt when a size or
a time of theirs changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from lvlm_eval.records import read_json, write_json
from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.objects.extract import Dialect, nodes
from lvlm_fix.objects.vocabulary import NODES

__all__ = [
    "Truth",
    "annotated_truth",
    "choose",
    "photo_id",
    "photos_in",
    "read_ids",
    "read_truth",
    "truth_of",
]

Truth = dict[int, frozenset[str]]
"""Image id -> the nodes that are in the picture."""

_PHOTO = re.compile(r"(?:.*_)?0*(\d+)\.(?:jpe?g|png)", re.IGNORECASE)


def photo_id(name: str) -> int:
    """The image id in "000000000036.jpg" or "COCO_val2014_000000000036.jpg". Raises `DataError`."""
    match = _PHOTO.fullmatch(name)
    if not match:
        raise DataError(
            f"no image id in the file name {name!r}; expected <id>.jpg or COCO_val2014_<id>.jpg"
        )
    return int(match[1])


def photos_in(folder: Path) -> dict[int, Path]:
    """Image id -> photo, for every photo of a folder.

    Raises:
        DataError: there is no such folder, or two photos have one id.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder of photos {str(folder)!r}")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if _PHOTO.fullmatch(path.name):
            key = photo_id(path.name)
            if key in found:
                raise DataError(f"two photos with id {key}: {found[key].name} and {path.name}")
            found[key] = path
    return found


def read_truth(path: Path) -> Truth:
    """An objects file: one JSON object, image id -> list of nodes.

    Raises:
        DataError: it is not that, or names an object that is no COCO category.
    """
    document = read_json(path)
    if not isinstance(document, dict) or not document:
        raise DataError(f"{path} holds no objects; expected {{image id: [objects]}}")
    known = set(NODES)
    truth: Truth = {}
    for key, names in document.items():
        if not str(key).isdigit() or not isinstance(names, list):
            raise DataError(f"{path}: entry {key!r} is not an image id with a list of objects")
        if not known.issuperset(names):
            raise DataError(
                f"{path}: photo {key} has {sorted(set(names) - known)[0]!r}, which is no COCO category"
            )
        truth[int(key)] = frozenset(names)
    return truth


def truth_of(data: Path, file: Path | None, dialect: Dialect = "published") -> Truth:
    """The truth from an objects file if one is given, else from the annotations of a COCO folder."""
    return read_truth(file) if file else annotated_truth(data, dialect)


def annotated_truth(data: Path, dialect: Dialect = "published", cache: Path | None = None) -> Truth:
    """Instances and reference captions of a COCO folder; kept in `cache` (default: the user's cache
    folder).

    Raises:
        DataError: the folder has no annotations, or they cannot be read.
    """
    files = sorted(
        path
        for kind in ("instances", "captions")
        for path in (data / "annotations").glob(f"{kind}_*.json")
    )
    if not any(path.name.startswith("instances_") for path in files):
        raise DataError(
            f"no annotations/instances_*.json in {str(data)!r}; give a COCO folder or an objects file"
        )
    stamps = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    digest = hashlib.sha256("\n".join([dialect, "1", *stamps]).encode()).hexdigest()[:24]
    cached = (cache or _cache()) / f"objects-{digest}.json"
    if cached.exists():
        return {int(key): frozenset(names) for key, names in read_json(cached).items()}
    objects: dict[int, set[str]] = {}
    for path in files:
        _add(objects, path, dialect)
    write_json(cached, {str(key): sorted(objects[key]) for key in sorted(objects)})
    return {key: frozenset(objects[key]) for key in sorted(objects)}


def read_ids(spec: str) -> list[int]:
    """Image ids of "file.json" (a list) or "file.json:name" (a list of that name in it), sorted.

    Raises:
        DataError: there is no such file or name, or it is not a list of ids.
    """
    path, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    document = read_json(Path(path))
    if name:
        if not isinstance(document, dict) or name not in document:
            raise DataError(f"{path} has no list {name!r}; it has: {', '.join(document)}")
        document = document[name]
    if (
        not isinstance(document, list)
        or not document
        or not all(isinstance(key, int) for key in document)
    ):
        raise DataError(f"{spec} is not a list of image ids")
    if len(set(document)) != len(document):
        raise DataError(f"{spec} lists an image id twice")
    return sorted(document)


def choose(ids: Iterable[int], limit: int | None, seed: int) -> list[int]:
    """`limit` of the ids, drawn by `seed` from their sorted list; sorted. All of them without a
    limit.
    """
    ordered = sorted(ids)
    if limit is None:
        return ordered
    if limit < 1:
        raise SettingError(f"limit must be >= 1, got {limit}")
    return sorted(random.Random(seed).sample(ordered, min(limit, len(ordered))))


def _add(objects: dict[int, set[str]], path: Path, dialect: Dialect) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on standard output
            coco = COCO(str(path))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise DataError(f"cannot read annotations {path}: {error}") from None
    names: Mapping[int, str] = {key: category["name"] for key, category in coco.cats.items()}
    annotations: Iterable[Mapping[str, Any]] = coco.anns.values()
    for image_id in coco.imgs:
        objects.setdefault(int(image_id), set())
    for annotation in annotations:
        found = (
            nodes(annotation["caption"], dialect)
            if "caption" in annotation
            else [names[annotation["category_id"]]]
        )
        objects.setdefault(int(annotation["image_id"]), set()).update(found)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lvlm_eval"
