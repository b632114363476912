"""Control vectors in gguf files, as repeng writes them and llama.cpp reads them.

`direction.N`, float32, is added to what decoder layer N gives, counted from 0; layer 0 cannot be
written. Only such files are read and written; one that asks for another use than addition is
refused.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["MAGIC", "read", "write"]

MAGIC = b"GGUF"
NAME = "controlvector"
KNOWN = {f"{NAME}.model_hint", f"{NAME}.layer_count"}
SCALARS = dict(enumerate("BbHhIif?", 0)) | {10: "Q", 11: "q", 12: "d"}  # by type number
STRING, ARRAY, FLOAT32, UINT32 = 8, 9, 0, 4
ALIGN = 32  # bytes, where a file says nothing else


class _Bytes:
    """The bytes of a file, read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, form: str) -> Any:
        """One little-endian number."""
        size = struct.calcsize(f"<{form}")
        (value,) = struct.unpack(f"<{form}", self.data[self.place : self.place + size])
        self.place += size
        return value

    def text(self) -> str:
        """A string behind its length."""
        size = self.take("Q")
        if size > len(self.data) - self.place:
            raise ValueError("a string runs past the end of the file")
        self.place += size
        return self.data[self.place - size : self.place].decode()

    def value(self, kind: int) -> Any:
        """A value of a type number."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.take("I"), self.take("Q")
            if count > len(self.data):
                raise ValueError("an array runs past the end of the file")
            return [self.value(inner) for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"a value of unknown type {kind}")
        return self.take(SCALARS[kind])


def read(path: Path) -> tuple[dict[int, Tensor], dict[str, str]]:
    """Vectors by decoder layer, and the file's fields. Raises `ValueError` naming the key that is
    not understood.
    """
    try:
        return _read(_Bytes(path.read_bytes()))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the gguf file is damaged: {error}") from None


def write(rows: Mapping[int, Tensor], about: Mapping[str, str]) -> bytes:
    """A file of the vectors by decoder layer, but for layer 0, which has no place in it; `about`
    as JSON in `general.description`.

    Raises `ValueError` where no other layer is there.
    """
    kept = {layer: rows[layer].float().contiguous() for layer in sorted(rows) if layer > 0}
    if not kept:
        raise ValueError("a gguf control vector begins at layer 1, from 0, and there is none")
    texts = {
        "general.architecture": NAME,
        f"{NAME}.model_hint": about.get("model", ""),
        "general.description": json.dumps(dict(about), ensure_ascii=False),
    }
    out = MAGIC + struct.pack("<IQQ", 3, len(kept), len(texts) + 1)
    for key, text in texts.items():
        out += _text(key) + struct.pack("<I", STRING) + _text(text)
    out += _text(f"{NAME}.layer_count") + struct.pack("<II", UINT32, len(kept))
    data = b""
    for layer, row in kept.items():
        place = struct.pack("<IQIQ", 1, len(row), FLOAT32, len(data))
        out += _text(f"direction.{layer}") + place
        data += row.numpy().astype("<f4").tobytes()
        data += bytes(-len(data) % ALIGN)
    return out + bytes(-len(out) % ALIGN) + data


def _text(text: str) -> bytes:
    """A string behind its length."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _read(file: _Bytes) -> tuple[dict[int, Tensor], dict[str, str]]:
    file.place = len(MAGIC)
    if (version := file.take("I")) not in (2, 3):
        raise ValueError(f"gguf of version {version}; only 2 and 3 are known")
    tensors, fields = file.take("Q"), file.take("Q")
    about: dict[str, Any] = {}
    for _ in range(fields):
        key = file.text()
        about[key] = file.value(file.take("I"))
    if about.get("general.architecture") != NAME:
        raise ValueError(
            f"general.architecture is {about.get('general.architecture')!r}, not {NAME!r}"
        )
    if other := [key for key in about if not key.startswith("general.") and key not in KNOWN]:
        raise ValueError(
            f"key {other[0]!r} is not understood: a {NAME} is added to the layers' output, and "
            "no other use of it is known here"
        )
    places = [_place(file) for _ in range(tensors)]
    align = about.get("general.alignment", ALIGN)
    start = -(-file.place // align) * align
    found: dict[int, Tensor] = {}
    for name, layer, count, offset in places:
        part = file.data[start + offset : start + offset + 4 * count]
        if layer in found:
            raise ValueError(f"tensor {name!r} appears twice")
        if len(part) < 4 * count:
            raise ValueError(f"tensor {name!r} runs past the end of the file")
        found[layer] = torch.frombuffer(bytearray(part), dtype=torch.float32)
    return found, {key: str(value) for key, value in about.items()}


def _place(file: _Bytes) -> tuple[str, int, int, int]:
    """Name, layer, count of numbers and offset of a tensor."""
    name = file.text()
    sizes = [file.take("Q") for _ in range(file.take("I"))]
    kind, offset = file.take("I"), file.take("Q")
    match = re.fullmatch(r"direction\.(\d+)", name)
    if match is None:
        raise ValueError(f"tensor {name!r} is not understood; they are called direction.N")
    if int(match[1]) == 0:
        raise ValueError("direction.0 does not exist: a control vector begins at layer 1, from 0")
    if kind != FLOAT32 or len(sizes) != 1:
        raise ValueError(f"tensor {name!r} is not one row of float32")
    return name, int(match[1]), sizes[0], offset
