"""Fold a static gain of chosen heads into a checkpoint: VHR by a head table, served by any engine
at no cost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lvlm_fix.methods import VHR
from lvlm_fix.models import revision_of
from lvlm_fix.tools.checkpoint import loaded_for, sha256_of, written
from lvlm_fix.tools.folding import fold, given_heads

__all__ = ["export"]


def export(
    model: str, out: Path, table: Path, method: VHR, revision: str | None = None
) -> dict[str, Any]:
    """Write `model` with the gain of `method` folded in to the new folder `out`, at once or not at
    all.

    Beside weights and processor lie a card and `export.json`; returns what the latter holds. Raises
    `DataError` where `out` is there already, and what `fold` raises.
    """
    loaded, processor = loaded_for(model, out, revision)
    heads = given_heads(method, loaded)
    fold(loaded, heads, method.strength)
    record = {
        "model": model,
        "revision": revision_of(loaded),
        "strength": method.strength,
        "heads": {
            str(i): row.nonzero().flatten().tolist() for i, row in enumerate(heads) if row.any()
        },
        "table": str(method.scoring),
        "table_sha256": sha256_of(table),
    }
    return written(loaded, processor, out, record, _card)


def _card(record: dict[str, Any]) -> str:
    layers = "\n".join(
        f"| {layer} | {', '.join(map(str, heads))} |" for layer, heads in record["heads"].items()
    )
    digests = "\n".join(f"- `{name}` {digest}" for name, digest in record["sha256"].items())
    at = f" at revision {record['revision']}" if record["revision"] else ""
    return f"""---
base_model: {record["model"]}
library_name: transformers
pipeline_tag: image-text-to-text
---
# {Path(record["model"]).name} with a static head gain

{record["model"]}{at},
with one change: the columns of the decoder's output projections that belong to the heads
below are multiplied by {record["strength"]:g},
so that these heads weigh more in every token. Everything else, the
processor too, is the original's, and so is its licence. It loads with plain transformers.

The heads were picked by {record["table"]} (Vision-aware Head Reinforcement, arXiv 2412.13949,
with heads that are the
same for every prompt; table sha256 {record["table_sha256"]}).

| layer, from 0 | heads, from 0 |
|---|---|
{layers}

SHA-256 of the weights:

{digests}

`lvlm-fix export --check FOLDER {record["model"]}` compares it with the original under `lvlm_fix`.
"""
