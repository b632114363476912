"""A pass that records what the attention modules give and edits nothing."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.core.attached import Attached, is_attached
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.rows import row_logits, row_options
from lvlm_fix.errors import ModelError
from lvlm_fix.families import family_of

__all__ = ["Recorder", "passing"]


class Recorder:
    """Stands in an attention module's place for a fix: keeps what some rows of one sample give,
    edits nothing.
    """

    def __init__(
        self, rows: Int[Tensor, " rows"], image: Int[Tensor, " image"] | None = None
    ) -> None:
        self.rows, self.image = rows, image
        self.outputs: dict[int, Tensor] = {}  # by layer: rows heads dim
        self.looks: dict[int, Tensor] = {}  # by layer: rows heads image
        self.written: dict[int, Tensor] = {}  # by layer: rows heads, on keys behind the first row

    def attend(
        self, plain: Attend, module: torch.nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        output, weights = plain(module, *args, **kwargs)  # batch query heads dim
        layer: int = module.layer_idx  # type: ignore[assignment]
        rows = self.rows.to(output.device)
        self.outputs[layer] = output[0, rows].float()
        if self.image is not None:
            query, key, _, *rest = args
            mask = rest[0] if rest else kwargs.get("attention_mask")
            some, length = query.index_select(2, rows), query.shape[2]
            logits = row_logits(some, key, mask, rows, length, **row_options(module, kwargs))
            all_keys = logits.softmax(-1)[0].transpose(0, 1)
            self.looks[layer] = all_keys[..., self.image.to(logits.device)]
            self.written[layer] = all_keys[..., int(rows[0]) + 1 :].sum(-1)
        return output, weights


def passing(model: PreTrainedModel, recorder: Recorder, run: Any) -> Any:
    """`run()` with the head outputs recorded; the model is left as it was."""
    family, attached = family_of(model), Attached()
    if is_attached(family.decoder):
        raise ModelError(
            "this model is fixed, and grounding measures the unmodified one: leave the fix first"
        )
    try:
        sites = dict.fromkeys(family.attentions, recorder)
        attached.attention(model, family.decoder, family.config_key, sites)
        return run()
    finally:
        attached.undo()
