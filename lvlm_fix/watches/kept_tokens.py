"""`KeptTokens`: views of the prompt with part of its image, for a second branch.

Three papers keep part in three ways: the others are hidden from the later layers (`LeastSeen`),
are set to zero (`MostSeen`), or are dropped (`TowerPicked`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from lvlm_fix.core.at import Host, Watch
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import ModelError
from lvlm_fix.families import entering
from lvlm_fix.watches.hidden_keys import HiddenKeys
from lvlm_fix.watches.rows import LastRows, last_rows
from lvlm_fix.watches.tower import ClsRows, looked
from lvlm_fix.watches.views import Inputs, View

__all__ = ["KeptTokens", "LeastSeen", "MostSeen", "TowerPicked"]


@dataclass(frozen=True)
class KeptTokens(View):
    """Part of the image: `share` of its tokens, 0 to 1."""

    share: float


@dataclass(frozen=True)
class LeastSeen(KeptTokens):
    """Behind `layer`, rows see of the image only what the row that predicts the token attended to
    least in `layer`: anew for every token, at least one. Up to `layer` they see all.
    """

    layer: int = 1

    def of(self, inputs: Inputs) -> Inputs:
        return inputs

    def seeing(self, inputs: Inputs, host: Host) -> AbstractContextManager[None]:
        return HiddenKeys(inputs.now, self.share, self.layer).within(host)


@dataclass(frozen=True)
class MostSeen(KeptTokens):
    """The embeddings of the other tokens are zero, ⌊(1 − share)·n⌋ of n: those that the last row of
    the prompt attends to least, over all heads and layers of the main pass.
    """

    def needs(self) -> tuple[Watch[Any], ...]:
        return (LastRows(),)

    def of(self, inputs: Inputs) -> Inputs:
        return inputs

    def seeing(self, inputs: Inputs, host: Host) -> AbstractContextManager[None]:
        shown = _shown(inputs.now)
        if not shown.any():
            return nullcontext()
        blank = self.blank(inputs.now, shown)
        return _entering(host, lambda hidden: hidden * ~blank[..., None].to(hidden.device))

    def blank(
        self, now: Pass, shown: Bool[Tensor, "batch prompt_rows"]
    ) -> Bool[Tensor, "batch query"]:
        """The image tokens of a pass that are set to zero."""
        total = torch.zeros(shown.shape)
        for row in last_rows(now.text).values():
            received = row.weights[:, :, 0].mean(1).cpu()  # batch key, the last so many columns
            total += received[:, received.shape[1] - now.count :][:, : now.prompt_rows]
        rank = total.masked_fill(~shown, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
        count = [int(int(n) * (1 - self.share)) for n in shown.sum(-1)]
        blank = shown & (rank < torch.tensor(count)[:, None])
        return pad(blank, (0, now.count - now.prompt_rows))


@dataclass(frozen=True)
class TowerPicked(KeptTokens):
    """The picture is those of its tokens, at least one, that the vision tower's CLS token attends
    to most, in that order; later positions move up.
    """

    counted: ClassVar[bool] = True

    def needs(self) -> tuple[Watch[Any], ...]:
        return (ClsRows(),)

    def of(self, inputs: Inputs) -> Inputs:
        now, shown = inputs.now, _shown(inputs.now)
        if not shown.any():
            return inputs
        state = looked(now.text)
        assert state.rows is not None
        rows = state.rows[:, 2, now.start : now.start + now.prompt_rows].cpu()
        order = torch.arange(now.count).repeat(len(shown), 1)
        kept = torch.ones_like(order, dtype=torch.bool)
        count = max(1, round(self.share * state.photo))
        for sample, here in enumerate(shown):
            for photo in here.nonzero().flatten().split(state.photo):
                best = rows[sample, photo].argsort(descending=True, stable=True)
                order[sample, photo] = photo[best]
                kept[sample, photo[count:]] = False
        device = inputs.ids.device
        valid = inputs.valid & kept.to(device)
        return replace(inputs, valid=valid, order=order.to(device))

    def seeing(self, inputs: Inputs, host: Host) -> AbstractContextManager[None]:
        order = inputs.order
        if order is None:
            return nullcontext()

        def ordered(hidden: Float[Tensor, "batch query width"]) -> Tensor:
            return hidden.gather(1, order.to(hidden.device)[..., None].expand_as(hidden))

        return _entering(host, ordered)


def _shown(now: Pass) -> Bool[Tensor, "batch prompt_rows"]:
    """The image tokens among the prompt's rows of a pass, on the CPU."""
    return now.text.shown[:, now.start : now.start + now.prompt_rows]


@contextmanager
def _entering(host: Host, edit: Callable[[Tensor], Tensor]) -> Generator[None]:
    """What enters the first layer is edited. Raises `ModelError` where an image enters others."""
    names = type(host.family.decoder).forward.__annotations__
    if any("deepstack" in name for name in names):
        raise ModelError(
            f"{type(host.model).__name__}: its image enters several layers, so no part of it can be"
            " taken out in front of the first"
        )

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = edit(entering(args, kwargs))
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": hidden}
        return (hidden, *args[1:]), kwargs

    hooked = host.family.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        hooked.remove()
