"""A second branch whose instruction has other words in front of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from lvlm_fix.errors import ModelError
from lvlm_fix.watches.views import Inputs, View

__all__ = ["DisturbedPrompt"]


@dataclass(frozen=True)
class DisturbedPrompt(View):
    """Words put between the last image of the prompt and the instruction; `tokens` are used in
    their place if given.
    """

    words: str
    tokens: tuple[int, ...] | None = None
    closing: frozenset[int] = (
        frozenset()
    )  # special tokens that may close an image; the words come behind them

    def ready(self, model: PreTrainedModel) -> View:
        settings = model.config.to_dict().items()
        closing = {
            value
            for key, value in settings
            if isinstance(value, int) and key.endswith(("_id", "_index"))
        }
        if self.tokens is not None:
            return replace(self, closing=frozenset(closing))
        try:
            tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no tokenizer was found at {model.name_or_path!r} to read {self.words!r} with; "
                "give its token ids"
            ) from error
        tokens = tuple(tokenizer.encode(self.words, add_special_tokens=False))
        return replace(
            self, tokens=tokens, closing=frozenset(closing | set(tokenizer.all_special_ids))
        )

    def of(self, inputs: Inputs) -> Inputs:
        assert self.tokens is not None
        count, positions = len(self.tokens), inputs.positions
        if not inputs.first:
            return inputs if positions is None else replace(inputs, positions=positions + count)
        at = torch.tensor(
            [self._place(row, seen) for row, seen in zip(inputs.ids, inputs.image, strict=True)]
        )
        at = at.to(inputs.ids.device)[:, None]
        columns = torch.arange(inputs.ids.shape[1] + count, device=at.device)[None]
        inside = (columns >= at) & (columns < at + count)
        source = torch.where(columns < at, columns, columns - count).clamp(
            0, inputs.ids.shape[1] - 1
        )
        source = torch.where(inside, at.clamp_max(inputs.ids.shape[1] - 1), source)
        words = torch.tensor([*self.tokens], device=at.device)[(columns - at).clamp(0, count - 1)]
        if positions is not None:
            step = torch.where(inside, columns - at, (columns >= at + count) * count)
            positions = positions.gather(-1, source.expand(*positions.shape[:-1], -1)) + step
        more = {
            name: (
                value.gather(1, source) * ~inside
                if name.endswith("token_type_ids") and value is not None
                else value
            )
            for name, value in inputs.more.items()
        }
        return replace(
            inputs,
            ids=torch.where(inside, words, inputs.ids.gather(1, source)),
            valid=torch.where(
                inside, inputs.image.any(-1, keepdim=True), inputs.valid.gather(1, source)
            ),
            image=inputs.image.gather(1, source) & ~inside,
            positions=positions,
            more=more,
        )

    def _place(self, ids: Tensor, image: Tensor) -> int:
        """The column of the words: behind the last image token and what closes it; 0 (as padding)
        without image.
        """
        seen = image.nonzero().flatten().tolist()
        if not seen:
            return 0
        row, at = ids.tolist(), seen[-1] + 1
        while at < len(row) and row[at] in self.closing:
            at += 1
        return at
