"""Files of records: JSON lines (or a JSON list) in, JSON lines out, written so that a kill loses at
most one batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from lvlm_fix.errors import DataError

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


def read(path: Path) -> list[Record]:
    """All records of a JSON-lines file or a JSON list.

    Raises:
        DataError: the file is missing or empty, or a line is damaged; the message has its number.
    """
    text = _text(path)
    if text.lstrip().startswith("["):
        records = _parse(text, f"{path}")
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict):
                raise DataError(f"{path}: entry {number} is not a JSON object")
    else:
        records = [
            _line(line, path, number)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    if not records:
        raise DataError(f"{path} holds no records; an empty run has no figures")
    return cast(list[Record], records)


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
    records: Iterable[Record], id_key: str, text_keys: tuple[str, ...], path: Path
) -> dict[int, str]:
    """Id -> text, in file order.

    Raises:
        DataError: a key is missing, of the wrong kind, or an id comes twice.
    """
    out: dict[int, str] = {}
    for number, record in enumerate(records, 1):
        where = f"{path}: record {number}"
        try:
            key = int(record[id_key])
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{where} needs a whole number under {id_key!r}, found {record.get(id_key)!r}"
            ) from None
        text = next((record[name] for name in text_keys if name in record), None)
        if not isinstance(text, str):
            raise DataError(
                f"{where} ({id_key} {key}) needs a text under {' or '.join(map(repr, text_keys))}"
            )
        if key in out:
            raise DataError(f"{where}: {id_key} {key} comes twice; keep one of them")
        out[key] = text
    return out


def read_json(path: Path) -> Any:
    """One JSON document. Raises `DataError`."""
    return _parse(_text(path), f"{path}")


def append(path: Path, records: Iterable[Record]) -> None:
    """Add one batch to a part file, in one write that is on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(dumps(record) + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, records: Iterable[Record]) -> None:
    """Write JSON lines; the old file stands until the new one is whole."""
    _replace(path, "".join(dumps(record) + "\n" for record in records))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one JSON document; the old file stands until the new one is whole."""
    _replace(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def dumps(record: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON at line {error.lineno}: {error.msg}") from None


def _line(line: str, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise DataError(
            f"{path}: line {number} is damaged: {line[:60]!r}; mend or delete it"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: line {number} is not a JSON object: {line[:60]!r}")
    return cast(Record, record)
