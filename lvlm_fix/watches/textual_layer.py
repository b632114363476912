"""`TextualLayer`: what the first layer's textual heads alone say of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lvlm_fix.core.at import AtLayer, AtToken, Host, Rows, Watch
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.rows import weigh
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import ModelError
from lvlm_fix.families import mlp_of
from lvlm_fix.watches.read_out import ReadOut, close

__all__ = ["TextualLayer", "textual"]

RESIDUAL, LAST = 0.2, 0.5  # the authors' code: shares of what enters and what leaves the last layer


def textual(
    weights: Float[Tensor, "batch heads query key"],
    image: Bool[Tensor, "batch one query key"],
    text: Bool[Tensor, "batch one query key"],
) -> Float[Tensor, "batch heads query key"]:
    """The weights without those above mean + standard deviation of a row's image keys, or of its
    text keys; and without the heads whose entropy over text, as a share of that over the image,
    falls short of the mean over heads.
    """
    kept, entropies = weights, []
    for keys in (text, image):
        count = keys.sum(-1, keepdim=True)
        own = weights * keys
        mean = own.sum(-1, keepdim=True) / count
        spread = ((own - mean).square() * keys).sum(-1, keepdim=True) / (count - 1)
        kept = kept.masked_fill(keys & (weights > mean + spread.sqrt()), 0.0)
        share = kept * keys
        share = share / share.sum(-1, keepdim=True)
        entropies.append(-(share * (share + 1e-6).log()).sum(-1))
    ratio = entropies[0].nan_to_num(nan=0.0) / entropies[1].nan_to_num(nan=torch.inf)
    return kept * (ratio >= ratio.mean(1, keepdim=True))[..., None]


@dataclass(frozen=True)
class TextualLayer(Watch[Float[Tensor, "batch vocabulary"]]):
    """Logits of what the first layer's attention gives by `textual`, carried to the last layer's
    norms and MLP: `at[TextualLayer()]`, batch vocabulary. The first key of a text is left alone.
    """

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


class _Live(ReadOut[Float[Tensor, "batch vocabulary"]]):
    wants_rows = True
    wants_new_rows = True

    def __init__(self, watch: TextualLayer, host: Host) -> None:
        super().__init__(watch)
        self._host, layers = host, host.family.layers
        self._projection = self._part(self._part(layers[0], "self_attn"), "o_proj")
        self._before = self._part(layers[-1], "input_layernorm")
        self._behind = self._part(layers[-1], "post_attention_layernorm")
        self._mlp = mlp_of(layers[-1])
        self._norm = self._part(host.family.decoder, "norm")
        head: Any = host.model.get_output_embeddings()
        if head is None:
            raise self._refused("it has no output embeddings")
        self._head: nn.Module = head

    def _part(self, owner: nn.Module, name: str) -> Any:
        part = dict(owner.named_children()).get(name)
        if part is None:
            raise self._refused(f"its {type(owner).__name__} has no {name}")
        return part

    def _refused(self, why: str) -> ModelError:
        model = type(self._host.model).__name__
        return ModelError(f"{model}: one layer's attention cannot be read as logits, {why}")

    def attach(self, attached: Attached) -> None:
        last = len(self._host.family.layers) - 1
        self._host.entering(attached, [last], lambda _, hidden: self._keep("enters", hidden))
        attached.before(self._projection, partial(self._given, "heads"))
        attached.before(self._behind, partial(self._given, "middle"))
        attached.after(self._mlp, partial(self._gave, "added"))
        attached.after(self._host.family.layers[last], partial(self._gave, "leaves"))

    def _given(self, name: str, _: Any, args: tuple[Any, ...]) -> None:
        self._keep(name, args[0])

    def _gave(self, name: str, _: Any, args: tuple[Any, ...], output: Any) -> None:
        self._keep(name, output if isinstance(output, Tensor) or name == "added" else output[0])

    def _keep(self, name: str, hidden: Any) -> None:
        if self._host.running() and isinstance(hidden, Tensor):
            self._found[name] = hidden

    def look(self, at: AtLayer, rows: Rows) -> None:
        seen = (rows.logits > -torch.inf)[:, :1]
        image = at.image[:, None, None] & seen
        text = seen & ~at.image[:, None, None] & (seen.cumsum(-1) > 1)
        self._found["plain"] = weigh(rows.weights, rows.values).flatten(2)
        self._found["alone"] = weigh(textual(rows.weights, image, text), rows.values).flatten(2)

    def agrees(
        self, now: Pass, last: Int[Tensor, " batch"], own: Float[Tensor, "batch vocabulary"]
    ) -> bool:
        """What is done by hand must be what the model does."""
        found = self._kept
        if "added" not in found or "middle" not in found:
            raise self._refused("its last layer adds more than an MLP")
        if not close(found["middle"] + found["added"], found["leaves"]):
            raise self._refused("its last layer is not norm, attention, norm and MLP")
        shown = now.text.with_image
        plain, heads = self.at_row("plain", self._seen(now, last)), self.at_row("heads", last)
        plain, heads = plain[shown.to(plain.device)], heads[shown.to(heads.device)]
        if not now.changed and not close(plain, heads.to(plain)):
            raise self._refused("more than attention stands before its projection")
        read = self._head(self._norm(self.at_row("leaves", last)))
        if not close(read.float().to(own.device), own):
            raise self._refused("its logits are not norm and output embeddings alone")
        return not now.changed

    def _seen(self, now: Pass, row: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Where a row of the pass stands among those whose attention was seen."""
        if now.index is None:
            return row
        return torch.searchsorted(now.index.to(row.device), row).clamp_max(len(now.index) - 1)

    def at_token(self, at: AtToken) -> Float[Tensor, "batch vocabulary"]:
        assert at.now is not None and at.row is not None
        entering, leaving = self.at_row("enters", at.row), self.at_row("leaves", at.row)
        with self._host.unedited():
            alone = self._projection(self.at_row("alone", self._seen(at.now, at.row)))
            alone = RESIDUAL * entering + self._before(alone.to(entering))
            alone = alone + self._mlp(self._behind(alone)[:, None])[:, 0]  # a text of one row
            return self._head(self._norm(alone) + LAST * self._norm(leaving))
