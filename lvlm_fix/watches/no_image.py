"""`WithoutImage`: what every head gives at the prompt's end when the image tokens are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.text import Pass, State, Text

__all__ = ["WithoutImage", "pass_alone", "words_of"]

Words = tuple[int, ...]
KNOWN = 128  # texts to remember; at 7B one takes a quarter of a MiB in bfloat16


@dataclass(frozen=True)
class WithoutImage(Watch["Float[Tensor, 'batch heads dim']"]):
    """Head outputs of the unmodified model at the last position of the prompt's text alone.

    `at[WithoutImage()]`: batch heads dim, in each layer. Costs one pass over the text of a prompt,
    once for samples that are asked the same.
    """

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


@dataclass
class _State(State):
    outputs: dict[int, Tensor] = field(default_factory=dict)  # by layer: batch heads dim

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.outputs = {
            layer: found.index_select(0, index.to(found.device))
            for layer, found in self.outputs.items()
        }


class _Live(Live[Float[Tensor, "batch heads dim"]]):
    whole_prompt = True

    def __init__(self, watch: WithoutImage, host: Host) -> None:
        super().__init__(watch)
        self._host = host
        self._known: dict[Words, dict[int, Tensor]] = {}  # the longest unused first
        self._version = -1  # of the weights that these were computed with

    def begin(self, now: Pass) -> None:
        if not now.begins:
            return
        text = now.text
        words = words_of(text)
        if self._host.remember:
            self._forget()
        new = [one for one in dict.fromkeys(words) if one not in self._known]
        with self._host.unedited(), torch.no_grad():
            if new:
                self._known |= self._pass(new, text.device)
        found = {one: self._known.pop(one) for one in dict.fromkeys(words)}
        layers = found[words[0]]
        state = kept(text, self.watch, _State)
        state.outputs = {
            layer: torch.stack([found[one][layer] for one in words]) for layer in layers
        }
        if self._host.remember:
            self._known = dict([*self._known.items(), *found.items()][-KNOWN:])

    def _forget(self) -> None:
        """What was computed with other weights is not known."""
        parameters = self._host.family.decoder.parameters()
        version = sum(0 if p.is_inference() else p._version for p in parameters)
        if version != self._version:
            self._known, self._version = {}, version

    def _pass(self, texts: list[Words], device: torch.device) -> dict[Words, dict[int, Tensor]]:
        """One pass over texts: what it gives at their last tokens."""
        last = torch.tensor([len(text) - 1 for text in texts], device=device)
        found = dict[int, Tensor]()

        def tap(layer: int, plain: Attend) -> Attend:
            def attend(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
                output, weights = plain(*args, **kwargs)  # batch query heads dim
                at = last.to(output.device)
                found[layer] = output[torch.arange(len(at), device=at.device), at]
                return output, weights

            return attend

        self._host.taps.append(tap)
        try:
            pass_alone(self._host, texts, device)
        finally:
            self._host.taps.remove(tap)
        return {
            text: {layer: output[row] for layer, output in found.items()}
            for row, text in enumerate(texts)
        }

    def value(self, at: AtLayer) -> Float[Tensor, "batch heads dim"]:
        assert at.now is not None
        return kept(at.now.text, self.watch, _State).outputs[at.layer]


def words_of(text: Text) -> list[Words]:
    """The prompt of each sample without image tokens and padding."""
    keep = text.valid & ~text.shown
    return [tuple(row[kept].tolist()) for row, kept in zip(text.prompt_ids, keep, strict=True)]


def pass_alone(host: Host, texts: Sequence[Words], device: torch.device) -> None:
    """One pass of the decoder over texts; padding stands behind them, where none looks."""
    family = host.family
    rows = pad_sequence([torch.tensor(text, device=device) for text in texts], True)
    lengths = torch.tensor([len(text) for text in texts], device=device)
    family.decoder(
        inputs_embeds=host.model.get_input_embeddings()(rows),
        attention_mask=_both_ways(host, lengths) if family.both_ways else None,
        position_ids=torch.arange(rows.shape[1], device=device).expand_as(rows),
        use_cache=False,
    )


def _both_ways(host: Host, lengths: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1 query query"]:
    """An additive mask that lets every row see the whole prompt."""
    dtype, width = host.family.decoder.dtype, int(lengths.max())
    hidden = torch.arange(width, device=lengths.device) >= lengths[:, None, None, None]
    return (hidden.to(dtype) * torch.finfo(dtype).min).expand(-1, 1, width, -1)
