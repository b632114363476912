"""Photos and what is in them: a COCO folder, or a folder of photos with an objects file.

The truth of a photo is its instance categories and the nodes that its reference captions name.
Reading COCO's annotations takes a minute, so the result is kept as JSON and rebuilt when a size or
a time of theirs changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from lvlm_eval.lvis import absent_unless_seen, is_lvis, lvis_categories
from lvlm_eval.names import UNKNOWN, Synonyms, node_names, read_synonyms
from lvlm_eval.other_truth import IDS, OBJECTS, read_records, read_voc, voc_files
from lvlm_eval.records import read_json, write_json
from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.images import NUMBERED
from lvlm_fix.objects.extract import Dialect, nodes

__all__ = [
    "FOLDERS",
    "Truth",
    "annotated_truth",
    "choose",
    "one_half",
    "photo_id",
    "photos_in",
    "read_ids",
    "read_truth",
    "truth_of",
]

Truth = dict[int, frozenset[str]]
"""Image id -> the nodes that are in the picture; "?cat": nobody looked whether there is a cat."""

FOLDERS = ("val2014", "val2017", "images", "JPEGImages")
"""Where a data folder keeps its photos."""


def photo_id(name: str) -> int:
    """The image id in "000000000036.jpg" or "COCO_val2014_000000000036.jpg". Raises `DataError`."""
    match = NUMBERED.fullmatch(name)
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
        if NUMBERED.fullmatch(path.name) and not path.name.startswith("."):
            key = photo_id(path.name)
            if key in found:
                raise DataError(f"two photos with id {key}: {found[key].name} and {path.name}")
            found[key] = path
    return found


def read_truth(path: Path, synonyms: Synonyms | None = None) -> Truth:
    """An objects file: one JSON object, image id -> list of nodes ("?cat": unknown); or
    annotations of COCO's or LVIS's kind in one file; or lines of photo and object
    (`other_truth.read_records`).

    Raises:
        DataError: it is none of these, or names an object that is no COCO category.
    """
    try:
        document = read_json(path)
    except DataError as error:
        try:
            return read_records(path, synonyms)
        except DataError as other:
            raise (error if path.suffix == ".json" else other) from None
    if isinstance(document, list):
        return read_records(path, synonyms)
    if isinstance(document, dict) and {*IDS} & document.keys() and {*OBJECTS} & document.keys():
        return read_records(path, synonyms)
    if not isinstance(document, dict) or not document:
        raise DataError(f"{path} holds no objects; expected {{image id: [objects]}}")
    if "annotations" in document or "categories" in document:
        objects: dict[int, set[str]] = {}
        _add(objects, path, "published", synonyms)
        return _settled(objects)
    truth: Truth = {}
    for key, names in document.items():
        if not re.fullmatch("[0-9]{1,30}", key) or not isinstance(names, list):
            raise DataError(f"{path}: entry {key!r} is not an image id with a list of objects")
        doubts = [str(name) for name in names if str(name).startswith(UNKNOWN)]
        sure = [str(name) for name in names if not str(name).startswith(UNKNOWN)]
        found = {node for node in node_names(sure, path, synonyms).values() if node is not None}
        unsure = node_names([name.removeprefix(UNKNOWN) for name in doubts], path, synonyms)
        marks = {f"{UNKNOWN}{node}" for node in unsure.values() if node not in (None, *found)}
        truth[int(key)] = frozenset(found | marks)
    return truth


def truth_of(
    data: Path, file: Path | None, dialect: Dialect = "published", synonyms: Path | None = None
) -> Truth:
    """The truth from an objects file if one is given, else from the annotations of a COCO folder,
    or of a VOC folder.
    """
    if file is not None:
        return read_truth(file, read_synonyms(synonyms))
    known = read_synonyms(synonyms)
    if not _instances(data) and (files := voc_files(data)):
        return read_voc(files, known)
    return annotated_truth(data, dialect, synonyms=known)


def annotated_truth(
    data: Path,
    dialect: Dialect = "published",
    cache: Path | None = None,
    synonyms: Synonyms | None = None,
) -> Truth:
    """Instances and reference captions of a COCO folder; kept in `cache` (default: the user's cache
    folder).

    Raises:
        DataError: the folder has no annotations, or they cannot be read.
    """
    files = _instances(data)
    if not files:
        raise DataError(
            f"no annotations/instances_*.json (COCO) and no Annotations/*.xml (VOC) in "
            f"{str(data)!r}; give such a folder or an objects file"
        )
    files = sorted([*files, *(data / "annotations").glob("captions_*.json")])
    stamps = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    digest = hashlib.sha256(
        "\n".join([dialect, "2", repr(synonyms or {}), *stamps]).encode()
    ).hexdigest()[:24]
    cached = (cache or _cache()) / f"objects-{digest}.json"
    if cached.exists():
        return {int(key): frozenset(names) for key, names in read_json(cached).items()}
    objects: dict[int, set[str]] = {}
    for path in files:
        _add(objects, path, dialect, synonyms)
    truth = _settled(objects)
    write_json(cached, {str(key): sorted(names) for key, names in truth.items()})
    return truth


def _settled(objects: Mapping[int, set[str]]) -> Truth:
    """The truth of what was gathered: what was seen is not unknown."""
    return {
        key: frozenset(found - {f"{UNKNOWN}{name}" for name in found})
        for key, found in sorted(objects.items())
    }


def _instances(data: Path) -> list[Path]:
    return sorted((data / "annotations").glob("instances_*.json"))


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


def _add(
    objects: dict[int, set[str]],
    path: Path,
    dialect: Dialect,
    synonyms: Synonyms | None,
) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on standard output
            coco = COCO(str(path))
    except (OSError, ValueError, LookupError, TypeError, RecursionError, AssertionError) as error:
        reason = f"{type(error).__name__} {error}".strip()
        raise DataError(f"cannot read annotations {path}: {reason}; expected COCO's") from None
    annotations: list[Mapping[str, Any]] = list(coco.anns.values())
    if not annotations:
        raise DataError(f"{path} has no annotations: every object would count as invented")
    try:
        named = {key: str(category["name"]) for key, category in coco.cats.items()}
        if "caption" not in annotations[0] and not named:
            raise DataError(f"{path} has no list of categories")
        if is_lvis(coco.imgs.values()):
            of = lvis_categories(coco.cats.values(), synonyms or {})
            for key, image in coco.imgs.items():
                objects.setdefault(int(key), set()).update(absent_unless_seen(image, of))
            for one in annotations:
                if (node := of.objects.get(one["category_id"])) is not None:
                    objects.setdefault(int(one["image_id"]), set()).add(node)
            return
        used = {named[one["category_id"]] for one in annotations if "caption" not in one}
        objects_of = node_names(sorted(used), path, synonyms)
        for image_id in coco.imgs:
            objects.setdefault(int(image_id), set())
        for annotation in annotations:
            found = (
                nodes(str(annotation["caption"]), dialect)
                if "caption" in annotation
                else [objects_of[named[annotation["category_id"]]]]
            )
            known = {node for node in found if node is not None}
            objects.setdefault(int(annotation["image_id"]), set()).update(known)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: an annotation or a category is damaged: {error!r}") from None


def one_half(truth: Path) -> str:
    """What the truth is made of, where COCO's instances or its captions are all there is of it."""
    if truth.is_dir():
        found = [True, any((truth / "annotations").glob("captions_*.json"))]
    else:
        with truth.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if not re.search(rb'"annotations"\s*:', text):
                return ""
            found = [bool(re.search(rb'"%s"\s*:' % k, text)) for k in (b"category_id", b"caption")]
    if found == [True, False]:
        return "there are no reference captions: the truth comes from the instances alone"
    if found == [False, True]:
        return "there are no instances: the truth comes from the captions alone"
    return ""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lvlm_eval"
