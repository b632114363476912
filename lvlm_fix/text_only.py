"""The text-only pass over a prompt: what every head gives at its last position when the image
tokens are deleted.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lvlm_fix.families import Family

__all__ = ["TextOnly"]

Text = tuple[int, ...]
KNOWN = 128  # texts to remember; at 7B one takes a quarter of a MiB in bfloat16


class TextOnly:
    """Runs the text-only pass, once per different text: beams, and photos asked the same question,
    share it.

    As long as no weight is written to, the last texts are remembered, and of the last prompts the
    keys and values of what stands in front of the image: the same question about a further photo
    costs no pass at all, and another question a pass over the tokens behind the image.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        self.model, self.family = model, family
        self._passing: dict[int, Tensor] | None = (
            None  # while it runs, by layer: the texts of the pass, heads dim
        )
        self._last = torch.empty(0)  # while it runs: the last position of each text
        self._known: dict[
            Text, dict[int, Tensor]
        ] = {}  # by text, the longest unused first, and layer: heads dim
        self._prefixes: dict[
            Text, list[tuple[Tensor, Tensor]]
        ] = {}  # by text and layer: keys and values
        self._of = 0  # version of the weights that these were computed with

    def record(self, layer: int, output: Float[Tensor, "batch query heads dim"]) -> None:
        """Keep the last position of a layer that the pass goes through; outside of the pass,
        nothing.
        """
        if self._passing is not None:
            last = self._last.to(output.device)
            self._passing[layer] = output[torch.arange(len(last), device=last.device), last]

    def outputs(
        self,
        ids: Int[Tensor, "batch query"],
        keep: Bool[Tensor, "batch query"],
        before: Bool[Tensor, "batch query"],
    ) -> dict[int, Float[Tensor, "batch heads dim"]]:
        """By layer, the head outputs at the last position of the prompts of which only tokens to
        `keep` are left.

        Those `before` the image are what further prompts may begin with, too.
        """
        texts = [tuple(row[kept].tolist()) for row, kept in zip(ids, keep, strict=True)]
        prefixes = [
            text[:end] for text, end in zip(texts, (keep & before).sum(-1).tolist(), strict=True)
        ]
        version = sum(
            0 if p.is_inference() else p._version for p in self.family.decoder.parameters()
        )
        if version != self._of:
            self._known, self._prefixes, self._of = {}, {}, version
        self._prefixes = {
            prefix: kept for prefix, kept in self._prefixes.items() if prefix in prefixes
        }
        new: dict[
            Text, dict[Text, Text]
        ] = {}  # by the prefix whose keys are there: texts, and the prefix of each
        for text, prefix in zip(texts, prefixes, strict=True):
            if text not in self._known:
                there = prefix if prefix in self._prefixes and prefix != text else ()
                new.setdefault(there, {})[text] = prefix
        for prefix, group in new.items():
            self._pass(prefix, group, ids.device)
        asked = {text: self._known.pop(text) for text in dict.fromkeys(texts)}
        self._known = dict([*self._known.items(), *asked.items()][-KNOWN:])
        return {
            layer: torch.stack([asked[text][layer] for text in texts]) for layer in asked[texts[0]]
        }

    def _pass(self, prefix: Text, texts: dict[Text, Text], device: torch.device) -> None:
        """One pass over what follows a `prefix` in all of these texts; padding stands behind them,
        where none looks.
        """
        tails = [torch.tensor(text[len(prefix) :], device=device) for text in texts]
        lengths, rows = (
            torch.tensor([len(tail) for tail in tails], device=device),
            pad_sequence(tails, True),
        )
        cache = DynamicCache(config=self.family.decoder.config)
        for layer, kept in enumerate(self._prefixes.get(prefix, ())):
            keys, values = (part.expand(len(tails), -1, -1, -1) for part in kept)
            cache.update(keys, values, layer)
        found = self._passing = dict[int, Tensor]()
        self._last = lengths - 1
        try:
            self.family.decoder(
                inputs_embeds=self.model.get_input_embeddings()(rows),
                attention_mask=self._both_ways(lengths) if self.family.both_ways else None,
                position_ids=torch.arange(
                    len(prefix), len(prefix) + rows.shape[1], device=device
                ).expand_as(rows),
                past_key_values=cache,
                use_cache=True,
            )
        finally:
            self._passing = None
        for number, text in enumerate(texts):
            self._known[text] = {layer: output[number] for layer, output in found.items()}
        if not prefix and not self.family.both_ways:
            self._keep(cache, list(texts.values()), rows.shape[1])

    def _keep(self, cache: DynamicCache, prefixes: list[Text], width: int) -> None:
        """Of a cache in which whole texts are, keep their prefixes; of a cache that holds anything
        else, nothing.
        """
        plain: list[Any] = [
            layer
            for layer in cache.layers
            if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
        ]
        if len(plain) < len(cache.layers) or any(
            layer.keys is None or layer.keys.shape[2] != width for layer in plain
        ):
            return
        for row, prefix in enumerate(prefixes):
            if prefix and prefix not in self._prefixes:
                part = slice(row, row + 1), slice(None), slice(len(prefix))
                self._prefixes[prefix] = [
                    (layer.keys[part].clone(), layer.values[part].clone()) for layer in plain
                ]

    def _both_ways(self, lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 query query"]:
        """An additive mask that lets every row see the whole prompt."""
        dtype, width = self.family.decoder.dtype, int(lengths.max())
        hidden = torch.arange(width, device=lengths.device) >= lengths[:, None, None, None]
        return (hidden.to(dtype) * torch.finfo(dtype).min).expand(-1, 1, width, -1)
