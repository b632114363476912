"""Checkpoints that are read to be changed, and written with a record of what was changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from lvlm_fix.errors import DataError, ModelError
from lvlm_fix.models import folder_of, load

__all__ = ["RECORD", "digests_of", "loaded_for", "sha256_of", "written"]

RECORD = "export.json"  # beside the weights: what was changed


def loaded_for(model: str, out: Path, revision: str | None) -> tuple[PreTrainedModel, Any]:
    """Model and processor for an export to `out`, in the checkpoint's own type.

    Raises `DataError` where `out` is there already and `ModelError` for quantised weights.
    """
    if out.exists():
        raise DataError(f"{str(out)!r} exists already; name a new folder")
    own = AutoConfig.from_pretrained(
        folder_of(model), revision=revision, trust_remote_code=False
    ).dtype
    loaded, processor = load(model, revision=revision, dtype=own or torch.float32)
    if loaded.config.to_dict().get("quantization_config"):
        raise ModelError(
            f"{model!r} is quantised: a change would be rounded away; export the floating-point"
            " checkpoint"
        )
    return loaded, processor


def written(
    loaded: PreTrainedModel,
    processor: Any,
    out: Path,
    record: dict[str, Any],
    card: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """Write weights, processor, card and record to the new folder `out`, at once or not at all;
    the record with the digests of the weights.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        loaded.save_pretrained(partial)
        processor.save_pretrained(partial)
        record = record | {"sha256": digests_of(partial)}
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        (partial / "README.md").write_text(card(record))
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return record


def digests_of(folder: Path) -> dict[str, str]:
    """Of the weights in a folder, by file."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}


def sha256_of(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
