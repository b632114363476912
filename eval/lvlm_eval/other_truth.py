"""Truth as other data sets write it: VOC's folders of XML, and tables of photo and object."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from lvlm_eval.names import Synonyms, node_names
from lvlm_eval.records import DIGITS, Record, read
from lvlm_fix.errors import DataError

__all__ = ["IDS", "OBJECTS", "read_records", "read_voc", "voc_files"]

IDS = ("image_id", "ImageID", "image", "file_name", "filename", "id")
OBJECTS = ("objects", "labels", "object", "label", "LabelName", "class", "category", "name")
_NUMBER = re.compile(r"(?:.*[/\\_])?0*(\d+)(?:\.\w+)?")


def voc_files(folder: Path) -> list[Path]:
    """The annotations of a VOC folder; empty where it is none."""
    for name in ("Annotations", "annotations", "."):
        if found := sorted((folder / name).glob("[!.]*.xml")):
            return found
    return []


def read_voc(files: list[Path], synonyms: Synonyms | None = None) -> dict[int, frozenset[str]]:
    """Image id -> nodes, of files of VOC; the id is the number that the file's name ends with.

    Raises:
        DataError: a file is no annotation of VOC, has no number, or has that of another.
    """
    named: dict[int, list[str]] = {}
    of: dict[int, Path] = {}
    for path in files:
        try:
            root = xml.fromstring(path.read_bytes())
        except (xml.ParseError, OSError, ValueError) as error:
            line = f" line {error.position[0]}:" if isinstance(error, xml.ParseError) else ""
            raise DataError(f"{path}:{line} not XML: {error}; expected VOC's") from None
        if root.tag != "annotation":
            raise DataError(f"{path} begins with <{root.tag}>; expected VOC's <annotation>")
        key = _number(path.name, f"{path}")
        if key in of:
            raise DataError(
                f"{of[key]} and {path} are both for photo {key}: give each its own number"
            )
        of[key], named[key] = path, []
        for number, one in enumerate(root.iter("object"), 1):
            name = (one.findtext("name") or "").strip()
            if not name:
                raise DataError(f"{path}: object {number} has no <name>")
            named[key].append(name)
    every = (name for names in named.values() for name in names)
    nodes = node_names(every, files[0].parent, synonyms)
    return {
        key: frozenset(node for name in names if (node := nodes[name]) is not None)
        for key, names in named.items()
    }


def read_records(path: Path, synonyms: Synonyms | None = None) -> dict[int, frozenset[str]]:
    """Image id -> nodes, of lines with a photo and an object each (CSV, TSV, JSON lines; as Open
    Images has them), or with a photo and a list of objects.

    A line with `Confidence` 0 says that the object is not there.

    Raises:
        DataError: naming the record and what was expected.
    """
    named: dict[int, list[str]] = {}
    for number, record in enumerate(read(path), 1):
        where = f"{path}: record {number}"
        image = next((record[key] for key in IDS if key in record), None)
        key = image if type(image) is int and image >= 0 else _number(str(image), where)
        named.setdefault(key, []).extend(_objects(record, where))
    nodes = node_names((name for names in named.values() for name in names), path, synonyms)
    return {
        key: frozenset(node for name in names if (node := nodes[name]) is not None)
        for key, names in named.items()
    }


def _objects(record: Record, where: str) -> Iterator[str]:
    found = next((record[key] for key in OBJECTS if key in record), None)
    given = cast(list[Any], found if isinstance(found, list) else [found])
    names = [name for name in given if isinstance(name, str) and name.strip()]
    if len(names) != len(given):
        raise DataError(
            f"{where} has the keys {', '.join(map(repr, list(record)[:6]))}; expected a photo "
            f"under one of {', '.join(IDS)}, and its object or objects under one of "
            f"{', '.join(OBJECTS)}"
        )
    if str(record.get("Confidence", "1")).strip() not in ("0", "0.0"):
        yield from map(str.strip, names)


def _number(name: str, where: str) -> int:
    """The image id that a name ends with."""
    match = _NUMBER.fullmatch(name.strip())
    if match is None or len(match[1]) > DIGITS:
        raise DataError(
            f"{where}: photo {name[:60]!r} has no number for an id; expected 36, 000000000036.jpg "
            "or COCO_val2014_000000000036.jpg: name photos and truth by numbers"
        )
    return int(match[1])
