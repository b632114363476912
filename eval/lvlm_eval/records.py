"""Files of records: JSON lines (or a JSON list) in, JSON lines out, written so that a kill loses at
most one batch.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from lvlm_eval.samples import unwrapped
from lvlm_fix.errors import DataError
from lvlm_fix.files import with_folder, write_whole
from lvlm_fix.images import SUFFIXES

__all__ = [
    "Record",
    "append",
    "by_id",
    "dumps",
    "finished",
    "read",
    "read_json",
    "write",
    "write_json",
]

Record = dict[str, Any]
DIGITS = 30  # of an id; no number of a photo or a question is longer
OPENERS: Mapping[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""By what a compressed file begins with, whatever it is called."""


def read(path: Path) -> list[Record]:
    """All records of a file: JSON lines, a JSON list, objects one after another, CSV or TSV, with
    or without a byte-order mark, compressed or not; and of the outer objects that scorers write
    (`sentences`, `imgToEval`, `annotations`, or id -> text); chat transcripts
    and the rows that lmms-eval logs as `samples.unwrapped` gives them.

    Raises:
        DataError: the file is missing or empty, or a line is damaged; the message has its number.
    """
    text = _text(path)
    first = text.lstrip()[:1]
    if first == "[":
        records = _parse(text, f"{path}")
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict):
                raise DataError(f"{path}: entry {number} is not a JSON object")
    elif first != "{" and text.strip():
        records = _table(text, path)
    elif (whole := _one_object(text)) is not None:
        records = _inner(whole, path)
    elif text.lstrip().partition("\n")[0].rstrip() in ("{", ""):  # indented, one after another
        records = _following(text, path)
    else:
        records = [
            _line(line, path, number)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    if not records:
        raise DataError(f"{path} holds no records; an empty run has no figures")
    return [unwrapped(record) for record in cast(list[Record], records)]


def _one_object(text: str) -> Record | None:
    """The object that the text is; None where it is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _inner(whole: Record, path: Path) -> list[Record]:
    """The records of an outer object."""
    for key in ("sentences", "annotations", "captions", "results"):
        if isinstance(whole.get(key), list):
            return [one for one in whole[key] if isinstance(one, dict)]
    inner = whole.get("imgToEval", whole)
    if inner and isinstance(inner, dict) and all(map(str.isdecimal, inner)):
        found = list[Record]()
        for key, value in inner.items():
            if not isinstance(value, str | dict):
                raise DataError(f"{path}: entry {key!r} needs a text, found {str(value)[:60]}")
            if isinstance(value, str):  # the key is of a photo or a question
                found.append({"image_id": key, "id": key, "caption": value, "text": value})
            else:
                found.append({"image_id": key} | cast(Record, value))
        return found
    return [whole]


def _following(text: str, path: Path) -> list[Record]:
    """Objects one after another, over several lines each."""
    decoder, place, found = json.JSONDecoder(), 0, list[Record]()
    while place < len(text):
        place += len(text[place:]) - len(text[place:].lstrip())
        if place >= len(text):
            break
        try:
            record, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON{_where(error)}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}: {str(record)[:60]} is not a JSON object")
        found.append(cast(Record, record))
    return found


def _table(text: str, path: Path) -> list[Record]:
    """Rows under a line of names, parted by tabs, commas or semicolons."""
    head = text.partition("\n")[0]
    mark = max("\t,;", key=head.count)
    rows = csv.DictReader(io.StringIO(text), delimiter=mark)
    try:
        return _rows(rows, head, path)
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num} is damaged: {error}") from None


def _rows(rows: csv.DictReader[str], head: str, path: Path) -> list[Record]:
    if len(rows.fieldnames or ()) < 2:
        raise DataError(
            f"{path} is neither JSON nor a table with a line of names; it begins with {head[:60]!r}"
        )
    found = list[Record]()
    for row in rows:
        if None in row or None in row.values():
            raise DataError(
                f"{path}: line {rows.line_num} has not {len(rows.fieldnames or ())} cells"
            )
        found.append(dict(row))
    return found


def finished(path: Path) -> list[Record]:
    """The records of a part file that a kill may have cut: as `read`, but a torn last line is left
    out.

    Raises:
        DataError: a line before the last is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end was never finished
    return [
        _line(line.decode(errors="replace"), path, number) for number, line in enumerate(lines, 1)
    ]


def by_id(
    records: Iterable[Record], id_keys: tuple[str, ...], text_keys: tuple[str, ...], path: Path
) -> dict[int, str]:
    """Id -> text, in file order. An id is a whole number, or a photo's file name or path with one.

    Raises:
        DataError: a key is missing, of the wrong kind, or an id comes twice.
    """
    out: dict[int, str] = {}
    for number, record in enumerate(records, 1):
        where = f"{path}: record {number}"
        name = next((key for key in id_keys if key in record), id_keys[0])
        key = _whole(record.get(name))
        if key is None:
            raise DataError(
                f"{where} needs a whole number under {name!r}, or a file name that ends with one"
                f" (photo_7.jpg); found {record.get(name)!r}; its keys are"
                f" {', '.join(map(repr, list(record)[:8]))}"
            )
        text = next((record[name] for name in text_keys if name in record), None)
        if not isinstance(text, str):
            raise DataError(
                f"{where} ({name} {key}) needs a text under {' or '.join(map(repr, text_keys))}"
            )
        if key in out:
            raise DataError(f"{where}: {name} {key} appears twice; keep one of them")
        out[key] = text
    return out


def _whole(value: Any) -> int | None:
    """The number that an id is, or that the name of a photo ends with."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if not isinstance(value, str):
        return int(value) if math.isfinite(value) and value == int(value) else None
    found = re.fullmatch(
        rf"(?:.*[/\\_])?0*(\d+)(?:{'|'.join(map(re.escape, SUFFIXES))})?",
        value.strip(),
        re.IGNORECASE,
    )
    return int(found[1]) if found and len(found[1]) <= DIGITS else None


def read_json(path: Path) -> Any:
    """One JSON document. Raises `DataError`."""
    return _parse(_text(path), f"{path}")


def append(path: Path, records: Iterable[Record]) -> None:
    """Add one batch to a part file, in one write that is on disk when this returns.

    Raises:
        DataError: it cannot be written (a full disk); what was there before stays.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(dumps(record) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror}; what is done stays; give the same command"
            " again to resume"
        ) from error


def write(path: Path, records: Iterable[Record]) -> None:
    """Write JSON lines; the old file stands until the new one is whole."""
    write_whole(with_folder(path), "".join(dumps(record) + "\n" for record in records))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one JSON document; the old file stands until the new one is whole."""
    write_whole(with_folder(path), json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def dumps(record: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        opened = next((OPENERS[mark] for mark in OPENERS if start.startswith(mark)), open)
        wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as Excel writes it
        with opened(path, "rt", encoding="utf-16" if wide else "utf-8-sig") as file:
            return file.read()
    except UnicodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON{_where(error)}") from None


def _where(error: Exception) -> str:
    """The line and the reason of a fault of JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f" at line {error.lineno}: {error.msg}"
    return f" that can be read: {error}"


def _line(line: str, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(
            f"{path}: line {number} is damaged: {line[:60]!r}; mend or delete it"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: line {number} is not a JSON object: {line[:60]!r}")
    return cast(Record, record)
