"""The text-only pass over a prompt: what every head gives at its last position when the image tokens are deleted."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.families import Family

__all__ = ["TextOnly"]

Text = tuple[int, ...]


class TextOnly:
    """Runs the text-only pass, once per different text: beams, and photos asked the same question, share it.

    The texts of the last prompts are remembered, so further photos with the same question cost no pass at all, as long
    as no weight was written to in between.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model, self.family = model, family
        self._passing: dict[int, Tensor] | None = None  # while it runs, by layer: the texts of the pass, heads dim
        self._known: dict[Text, dict[int, Tensor]] = {}  # by text and layer: heads dim
        self._of = 0  # version of the weights that these were computed with

    @property
    def running(self) -> bool:
        """Whether the pass is running: nothing else is to act in it."""
        return self._passing is not None

    def record(self, layer: int, output: Float[Tensor, "batch query heads dim"]) -> None:
        """Keep the last position of a layer that the running pass went through."""
        assert self._passing is not None
        self._passing[layer] = output[:, -1].clone()

    def outputs(
        self, ids: Int[Tensor, "batch query"], keep: Bool[Tensor, "batch query"]
    ) -> dict[int, Float[Tensor, "batch heads dim"]]:
        """By layer, the head outputs at the last position of the prompts of which only tokens to `keep` are left."""
        kept = keep.tolist()
        texts = [
            tuple(i for i, k in zip(row, here, strict=True) if k) for row, here in zip(ids.tolist(), kept, strict=True)
        ]
        version = sum(0 if p.is_inference() else p._version for p in self.family.decoder.parameters())
        if version != self._of:
            self._known, self._of = {}, version
        self._known = {text: known for text, known in self._known.items() if text in texts}
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._pass(new, ids.device)
        layers = self._known[texts[0]]
        return {layer: torch.stack([self._known[text][layer] for text in texts]) for layer in layers}

    def _pass(self, texts: list[Text], device: torch.device) -> None:
        width = max(map(len, texts))
        rows = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts], device=device)
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)
        found = self._passing = dict[int, Tensor]()
        try:
            self.family.decoder(
                inputs_embeds=self.model.get_input_embeddings()(rows),
                attention_mask=self._both_ways(mask) if self.family.both_ways else mask,
                position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
                use_cache=False,
            )
        finally:
            self._passing = None
        for number, text in enumerate(texts):
            self._known[text] = {layer: output[number] for layer, output in found.items()}

    def _both_ways(self, mask: Int[Tensor, "batch query"]) -> Float[Tensor, "batch 1 query query"]:
        """An additive mask that lets every row see the whole prompt."""
        dtype = self.family.decoder.dtype
        hidden = (1 - mask[:, None, None].to(dtype)) * torch.finfo(dtype).min
        return hidden.expand(-1, 1, mask.shape[1], -1)
