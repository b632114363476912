"""`Vectors`: one direction for each of some decoder layers, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lvlm_fix.errors import DataError
from lvlm_fix.files import write_whole
from lvlm_fix.vectors import gguf, repsteer

__all__ = ["COUNTINGS", "Vectors"]

FORMAT = "lvlm-fix vectors 1"
COUNTINGS = ("decoder", "hidden_states")
"""`decoder`: entry i is for what decoder layer i gives, from 0. `hidden_states`: entry i is for the
i-th of `output_hidden_states`, which is what layer i − 1 gives; entry 0 are the embeddings.
"""
KEY = re.compile(r"(layer\.|direction\.|)(\d+)")
TOWER = re.compile(r"tower\.(0|[1-9]\d*)")
ONLY = {"mode": "add", "place": "residual"}  # what a file may say of how it is used
FORMATS = (FORMAT, "pt", None)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle")


@dataclass(eq=False)  # not frozen: a compiler would hash a frozen one by its tensors
class Vectors:
    """One vector per layer for some layers, counted from 0 at the embeddings; `about` is the
    manifest.

    Raises `DataError` naming source and layer: for no vectors, one that is not a row of finite
    numbers, and several widths.
    """

    rows: dict[int, Tensor]  # by decoder layer: width
    source: str = "made in memory"
    about: Mapping[str, str] = field(default_factory=dict)
    tower: dict[int, Tensor] = field(default_factory=dict)  # by vision layer: places width

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError(f"{self.source} holds no vectors")
        for layer, row in self.rows.items():
            if row.ndim != 1 or not row.is_floating_point() or not row.isfinite().all():
                raise DataError(
                    f"{self.source}: the vector of layer {layer} is not one row of finite numbers"
                    f" (shape {tuple(row.shape)}, {row.dtype})"
                )
            if len(row) != self.width:
                raise DataError(
                    f"{self.source}: the vector of layer {layer} is {len(row)} wide, that of layer"
                    f" {next(iter(self.rows))} {self.width}"
                )

        for layer, rows in self.tower.items():
            if rows.ndim != 2 or not rows.is_floating_point() or not rows.isfinite().all():
                raise DataError(
                    f"{self.source}: tower.{layer} is not places × width of finite numbers"
                )

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return len(next(iter(self.rows.values())))

    def norms(self) -> dict[int, float]:
        """The length of each vector, by layer."""
        return {layer: float(row.float().norm()) for layer, row in sorted(self.rows.items())}

    def save(self, path: str | Path) -> None:
        """Write atomically: as safetensors (`layer.N`, with the manifest as metadata), or, if the
        name ends in `.gguf`, as a control vector, which has no place for layer 0.

        Raises `DataError` if such a file would hold only layer 0.
        """
        if Path(path).suffix == ".gguf":
            if self.tower:
                raise DataError(f"{path}: a control vector has no place for the tower's vectors")
            try:
                content = gguf.write(self.rows, self.about)
            except ValueError as error:
                raise DataError(f"cannot write {str(path)!r}: {error}") from None
            write_whole(path, content)
            return
        tensors = {f"layer.{n}": row.float().contiguous() for n, row in self.rows.items()}
        tensors |= {f"tower.{n}": rows.float().contiguous() for n, rows in self.tower.items()}
        meta = dict(self.about) | {"format": FORMAT, "counting": "decoder", **ONLY}
        write_whole(path, save(tensors, meta))

    @classmethod
    def load(cls, path: str | Path, counting: str = "file") -> Vectors:
        """Read a safetensors file (one vector per layer, or one tensor of layers × width), a gguf
        control vector or a folder of repsteer.

        Args:
            path: the file or folder.
            counting: how its layers are counted, one of `COUNTINGS`; "file": as the file says.

        Raises `DataError` naming the file, and the key that is not understood.
        """
        file, tower = Path(path), dict[int, Tensor]()
        try:
            if file.is_dir():
                found, about, own = *repsteer.read(file), "decoder"
            elif (start := _start(file)) == gguf.MAGIC:
                found, about, own = *gguf.read(file), "decoder"
            elif file.suffix in PICKLES or start == b"PK\x03\x04":
                raise ValueError("a pickle is never read; save its tensors as safetensors")
            else:
                found, tower, about = _read(file)
                own = about.get("counting", "")
            return cls(_counted(found, own, counting), str(path), about, tower)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            why = f"there is no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"cannot read {str(path)!r} as vectors: {why}") from error

    def __str__(self) -> str:
        return self.source


def _start(path: Path) -> bytes:
    """The first bytes of a file, which tell its kind."""
    with path.open("rb") as file:
        return file.read(4)


def _counted(found: dict[int, Tensor], own: str, asked: str) -> dict[int, Tensor]:
    """By decoder layer, in order. Raises `ValueError` where it is not clear how layers count."""
    if asked not in ("file", *COUNTINGS):
        raise ValueError(
            f"counting is set to {asked!r}, and file, {', '.join(COUNTINGS)} are known"
        )
    if own and own not in COUNTINGS:
        raise ValueError(f"its counting is {own!r}, and {' and '.join(COUNTINGS)} are known")
    if asked != "file" and own and own != asked:
        raise ValueError(f"its layers are counted by {own}, and counting is set to {asked}")
    counting = own or asked
    if counting == "file":
        raise ValueError(
            "it does not say how its layers are counted: set counting to decoder (entry 0 is what "
            "the first layer gives) or hidden_states (entry 0 are the embeddings)"
        )
    if counting == "hidden_states":
        if 0 in found:
            raise ValueError("entry 0 of hidden_states are the embeddings, which no layer gives")
        found = {entry - 1: row for entry, row in found.items()}
    return {layer: found[layer] for layer in sorted(found)}


def _read(path: Path) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[str, str]]:
    """Tensors by number, those of the vision tower, and the metadata, of a safetensors file."""
    with safe_open(str(path), "pt") as file:
        about: dict[str, str] = dict(file.metadata() or {})
        names: list[str] = list(file.keys())
        tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in names}
    if about.get("format") not in FORMATS:
        raise ValueError(f"its format is {about['format']!r}")
    for key, only in ONLY.items():
        if about.get(key, only) != only:
            raise ValueError(f"its {key} is {about[key]!r}, and only {only!r} is understood")
    apart = [key for key in tensors if TOWER.fullmatch(key)]
    tower = {int(key[len("tower.") :]): tensors.pop(key) for key in apart}
    if len(tensors) == 1 and (table := next(iter(tensors.values()))).ndim == 2:
        return _numbered(table, about), tower, about
    matches = {key: KEY.fullmatch(key) for key in tensors}
    if unknown := [key for key, match in matches.items() if match is None]:
        raise ValueError(f"key {unknown[0]!r} is not understood; keys are layer.N, direction.N, N")
    found = {key: match.groups() for key, match in matches.items() if match is not None}
    if len({start for start, _ in found.values()}) > 1:
        raise ValueError(f"its keys are of several kinds: {', '.join(sorted(found))}")
    numbers = {key: int(number) for key, (_, number) in found.items()}
    if len(set(numbers.values())) < len(numbers):
        raise ValueError(f"two of its keys are for the same layer: {', '.join(sorted(found))}")
    return {number: tensors[key] for key, number in numbers.items()}, tower, about


def _numbered(
    table: Float[Tensor, "layers width"], about: Mapping[str, Any]
) -> dict[int, Float[Tensor, " width"]]:
    """The rows of one tensor, from the number that the metadata give."""
    if not str(about.get("first_layer", "")).isdigit():
        raise ValueError("one tensor of layers × width needs `first_layer` in the metadata")
    return dict(enumerate(table.unbind(), int(about["first_layer"])))
