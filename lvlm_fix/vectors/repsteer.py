"""Directions in folders of repsteer: a manifest, tensors, and checksums of both."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

__all__ = ["read"]

MANIFEST, TENSORS, SUMS = "manifest.json", "tensors.safetensors", "checksums.json"
# where a direction must be: added to what a decoder layer gives
SITE = {
    "stream": "language", "component": "resid_post", "io": "output", "unit": None,
    "tensor_path": [],
}  # fmt: skip


def read(folder: Path) -> tuple[dict[int, Tensor], dict[str, str]]:
    """The direction by decoder layer, and what the manifest says of it.

    Raises `ValueError` for another kind or place, naming the key, and where a checksum differs.
    """
    sums = json.loads((folder / SUMS).read_text())
    for name in (MANIFEST, TENSORS):
        held = sha256((folder / name).read_bytes()).hexdigest()
        if str(sums["files"][name]).removeprefix("sha256:") != held:
            raise ValueError(f"{name} is not the file that {SUMS} was made from")
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    if (kind := manifest["artifact_type"]) != "direction":
        raise ValueError(f"{MANIFEST}: artifact_type {kind!r} is not understood, only 'direction'")
    site: dict[str, Any] = manifest["site"]
    for key, wanted in SITE.items():
        if (found := site.get(key, wanted)) != wanted:
            raise ValueError(f"{MANIFEST}: site.{key} is {found!r}, only {wanted!r} is understood")
    if other := sorted(site.keys() - SITE.keys() - {"layer"}):
        raise ValueError(f"{MANIFEST}: site.{other[0]} is not understood")
    if not isinstance(layer := site["layer"], int) or isinstance(layer, bool) or layer < 0:
        raise ValueError(f"{MANIFEST}: site.layer is {layer!r}, not a layer counted from 0")
    tensors = load((folder / TENSORS).read_bytes())
    if other := sorted(tensors.keys() - {"direction"}):
        raise ValueError(f"{TENSORS}: key {other[0]!r} is not understood, only 'direction'")
    model = manifest.get("model") or {}
    about = {key: str(model[key]) for key in ("id", "revision") if model.get(key)}
    return {layer: tensors["direction"].flatten()}, about
