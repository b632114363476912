"""Fold a static gain of chosen heads into a checkpoint: VHR by a head table, served by any engine
at no cost.

A head's output reaches the model through its own columns of the output projection, so a factor on
the one is a factor on the other. A bias of the projection is added behind it and stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from lvlm_fix.attach import fix
from lvlm_fix.errors import DataError, ModelError, SettingError
from lvlm_fix.families import family_of
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.methods import VHR
from lvlm_fix.models import (
    DESCRIBE,
    answer,
    folder_of,
    load,
    open_image,
    prepare,
    revision_of,
    sample_photos,
)
from lvlm_fix.watches.heads import picked_by_table

__all__ = [
    "Equality", "check", "export", "fold", "given_heads", "loaded_for", "owners_of", "plain_linear",
    "sha256_of", "written",
]  # fmt: skip

RECORD = "export.json"  # beside the weights: what was changed
PROJECTIONS = (
    "o_proj",
    "out_proj",
    "wo",
    "dense",
)  # what modeling files call the output projection
TOLERANCE = 1e-5
TOKENS = 64


def given_heads(method: VHR, model: PreTrainedModel) -> Bool[Tensor, "layers heads"]:
    """The heads on which a method with a table acts in `model`.

    Raises `SettingError` for a layer that the model has not, and `DataError` where the table picks
    no head.
    """
    family = family_of(model)
    depth = len(family.layers)
    layers = sorted(method.acts_in(depth))
    if layers and layers[-1] >= depth:
        raise SettingError(f"there is no layer {layers[-1]}; this model has {depth}, from 0")
    picks = method.picks(depth)
    if picks is None or picks.table is None:
        raise DataError(
            "only heads from a table are the same for every prompt: give the method a table"
        )
    acting = torch.zeros(depth, 1, dtype=torch.bool)
    acting[layers] = True
    scored = family.decoder.config.num_attention_heads
    heads = picked_by_table(picks, depth, scored)[1] & acting
    if not heads.any():
        raise DataError(f"the table ({method.scoring}) picks no head in layers {layers}")
    return heads


@torch.no_grad()
def fold(model: PreTrainedModel, heads: Bool[Tensor, "layers heads"], strength: float) -> None:
    """Multiply the output-projection columns of `heads` by `strength`, in place; nothing is changed
    on an error.

    A projection in half precision becomes float32 where its own type cannot hold the products
    exactly. Raises `ModelError` where a projection cannot be found, is quantised, or is shared.
    """
    owners, found = owners_of(model), {}
    for module in family_of(model).attentions:
        layer = module.__dict__["layer_idx"]
        if heads[layer].any():
            found[layer] = _projection(module, layer, heads.shape[1], owners)
    for layer, linear in found.items():
        gain = torch.where(heads[layer], strength, 1.0).repeat_interleave(
            linear.in_features // heads.shape[1]
        )
        scaled = linear.weight.float() * gain.to(linear.weight.device)
        own = scaled.to(linear.weight.dtype)
        wide = linear.weight.dtype in (torch.float16, torch.bfloat16) and not torch.equal(
            own.float(), scaled
        )
        linear.weight = nn.Parameter(scaled if wide else own, requires_grad=False)


def _projection(
    module: nn.Module, layer: int, heads: int, owners: dict[int, list[str]]
) -> nn.Linear:
    where = f"the output projection of layer {layer}"
    linear = plain_linear(module, PROJECTIONS, where, owners)
    if linear.in_features % heads:
        raise ModelError(
            f"{where} takes {linear.in_features} values, which {heads} heads cannot share evenly"
        )
    return linear


def owners_of(model: nn.Module) -> dict[int, list[str]]:
    """Address of a weight -> the names of the parameters that it is."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter.data_ptr(), []).append(name)
    return owners


def plain_linear(
    module: nn.Module, names: Sequence[str], where: str, owners: Mapping[int, Sequence[str]]
) -> nn.Linear:
    """The one part of `module` with one of `names`: a floating-point `nn.Linear` of its own.

    Raises `ModelError` that begins with `where`: not found, quantised, wrapped or shared.
    """
    children = dict(module.named_children())
    found = [name for name in names if name in children]
    if len(found) != 1:
        raise ModelError(
            f"{where} was not found: {type(module).__name__} has"
            f" {', '.join(children) or 'no parts'}, and exactly one of {', '.join(names)} is"
            " looked for"
        )
    linear = children[found[0]]
    if (
        type(linear) is not nn.Linear
        or type(linear.weight.data) is not Tensor
        or not linear.weight.is_floating_point()
    ):
        raise ModelError(
            f"{where} is quantised or wrapped by an adapter ({type(linear).__name__} of"
            f" {type(linear.weight.data).__name__}, {linear.weight.dtype}): a change would be"
            " rounded away; export the floating-point checkpoint, with adapters merged into it"
            " first"
        )
    if len(shared := owners[linear.weight.data_ptr()]) > 1:
        raise ModelError(
            f"{where} is tied: {' and '.join(shared)} are one weight, so a change would act in both"
        )
    return linear


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


def loaded_for(model: str, out: Path, revision: str | None) -> tuple[PreTrainedModel, Any]:
    """Model and processor for an export to `out`, in the checkpoint's own type.

    Raises `DataError` where `out` is there already and `ModelError` for quantised weights.
    """
    if out.exists():
        raise DataError(f"{str(out)!r} is there already; name a new folder")
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
        record = record | {"sha256": _digests(partial)}
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        (partial / "README.md").write_text(card(record))
        partial.chmod(0o755)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return record


@dataclass(frozen=True)
class Equality:
    """An exported checkpoint against the wrapped model, in float32, on the sample photos."""

    photos: int
    logits_difference: float  # largest, over all positions of the prompts
    texts_equal: int  # of the photos
    digest_equal: bool  # the weights are those that were written

    @property
    def holds(self) -> bool:
        """Whether the checkpoint is what its card says."""
        return (
            self.digest_equal
            and self.logits_difference <= TOLERANCE
            and self.texts_equal == self.photos
        )

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"holds": self.holds}


def check(out: Path, model: str, revision: str | None = None) -> Equality:
    """Compare the exported checkpoint `out` with `model` wrapped by VHR on the same heads.

    Raises `DataError` where `out` is no export of this package.
    """
    try:
        record = json.loads((out / RECORD).read_text())
        if "strength" not in record:
            raise ValueError(f"it was made by {record.get('method')}, and gains alone are compared")
        strength, heads, digests = (
            float(record["strength"]),
            dict(record["heads"]),
            dict(record["sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(out)!r} holds no export of a gain: {error}; make one with `lvlm-fix export`"
        ) from error
    wrapped, processor = load(model, revision=revision, dtype=torch.float32)
    family = family_of(wrapped)
    chosen = np.zeros((len(family.layers), family.decoder.config.num_attention_heads))
    for layer, numbers in heads.items():
        chosen[int(layer), numbers] = 1.0
    table = HeadTable("recorded", chosen, np.zeros_like(chosen), 0, model, None, "", {})
    layers = tuple(int(layer) for layer in heads)
    method = VHR(strength=strength, table=table, top=int(chosen.sum()), layers=layers)
    with fix(wrapped, method):
        wanted, texts = _seen(wrapped, processor)
    plain, processor = load(str(out), dtype=torch.float32)
    found, others = _seen(plain, processor)
    difference = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))
    same = sum(a == b for a, b in zip(texts, others, strict=True))
    return Equality(len(texts), difference, same, _digests(out) == digests)


@torch.no_grad()
def _seen(model: PreTrainedModel, processor: Any) -> tuple[list[Tensor], list[str]]:
    """Logits at every prompt position, and greedy texts, of the sample photos."""
    photos = [open_image(path) for path in sample_photos()]
    logits = [
        model(**prepare(model, processor, [photo], [DESCRIBE])).logits.cpu() for photo in photos
    ]
    return logits, [
        answer(model, processor, [photo], [DESCRIBE], max_new_tokens=TOKENS)[0] for photo in photos
    ]


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.safetensors"))}


def sha256_of(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
