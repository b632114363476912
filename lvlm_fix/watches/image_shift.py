"""`ImageShift`: where the image moves what each layer gives at the prompt's end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.call import Signature
from lvlm_fix.core.text import Pass, State
from lvlm_fix.watches.no_image import pass_alone, words_of

__all__ = ["ImageShift"]


@dataclass(frozen=True)
class ImageShift(Watch["Float[Tensor, 'batch width']"]):
    """What a layer of the unmodified model gives at the last row of the prompt, less what it gives
    when the image tokens are deleted.

    `at[ImageShift()]`: batch width. Costs two passes before that over the prompt: one as it is, and
    one over its text, once for samples that are asked the same.
    """

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


@dataclass
class _State(State):
    shifts: dict[int, Tensor] = field(default_factory=dict)  # by layer: batch width

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.shifts = {
            layer: shift.index_select(0, index.to(shift.device))
            for layer, shift in self.shifts.items()
        }


class _Live(Live[Float[Tensor, "batch width"]]):
    whole_prompt = True

    def __init__(self, watch: ImageShift, host: Host) -> None:
        super().__init__(watch)
        self._host, self._runs = host, host.family.runs
        self._names = Signature(self._runs).names

    def _measured(self, rows: Int[Tensor, " batch"], run: Callable[[], Any]) -> dict[int, Tensor]:
        """What the layers give at one row of each sample, by layer: batch width."""
        found = dict[int, Tensor]()

        def keep(layer: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            at = rows.to(hidden.device)
            found[layer] = hidden[torch.arange(len(at), device=at.device), at].float()

        blocks = self._host.family.layers  # hooked for this pass alone: no graph has to hold it
        hooks = [blocks[n].register_forward_hook(partial(keep, n)) for n in self._host.layers]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def begin(self, now: Pass) -> None:
        if not now.begins:
            return
        assert now.last is not None
        words = words_of(now.text)
        texts = list(dict.fromkeys(words))
        ends = torch.tensor([len(text) - 1 for text in texts], device=now.text.device)
        with self._host.unedited(), torch.no_grad():
            shown = self._measured(now.last, lambda: self._as_it_is(now))
            alone = self._measured(ends, lambda: pass_alone(self._host, texts, now.text.device))
        which = torch.tensor([texts.index(one) for one in words])
        kept(now.text, self.watch, _State).shifts = {
            layer: row - alone[layer][which.to(row.device)] for layer, row in shown.items()
        }

    def _as_it_is(self, now: Pass) -> None:
        """The pass that is about to come, without a cache and unedited."""
        call, text = now.call, now.text
        given = call.about_photo()
        mask, valid = call.given.get("attention_mask"), text.valid[:, : now.prompt_rows]
        if isinstance(mask, Tensor) and mask.ndim == 2:
            given["attention_mask"] = mask[:, -now.count :]  # some models count positions by it
        elif not bool(valid.all()):  # a prepared mask is as wide as its cache
            more = torch.ones(text.batch, now.count - now.prompt_rows, dtype=torch.long)
            given["attention_mask"] = torch.cat((valid.long(), more), 1).to(text.device)
        for name in ("position_ids", "inputs_embeds"):
            if call.given.get(name) is not None:
                given[name] = call.given[name]
        if "inputs_embeds" not in given:
            given["input_ids"] = call.ids
        if "logits_to_keep" in self._names:
            given["logits_to_keep"] = 1
        self._runs(**given, use_cache=False)

    def value(self, at: AtLayer) -> Float[Tensor, "batch width"]:
        assert at.now is not None
        shifts, device = kept(at.now.text, self.watch, _State).shifts, at.image.device
        if shifts[at.layer].device != device:  # it follows its layer
            shifts[at.layer] = shifts[at.layer].to(device)
        return shifts[at.layer]
