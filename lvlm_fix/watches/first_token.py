"""`FirstToken`: how far a branch is from the model at the first token of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvlm_fix.contrast import divergence
from lvlm_fix.core.at import AtToken, Host, Live, Watch, kept
from lvlm_fix.core.text import Pass, State
from lvlm_fix.errors import InputError
from lvlm_fix.watches.branch import Branch

__all__ = ["FirstToken"]


@dataclass(frozen=True)
class FirstToken(Watch[Float[Tensor, " batch"]]):
    """The Jensen-Shannon divergence in nats of the model's and the branch's first token since the
    last prompt, before any edit of it. `at[FirstToken(branch)]`: batch.
    """

    branch: Branch

    def live(self, host: Host) -> _Live:
        return _Live(self)

    def needs(self) -> tuple[Watch[Any], ...]:
        return (self.branch,)


@dataclass
class _State(State):
    apart: Tensor | None = None  # batch

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        if self.apart is not None:
            self.apart = self.apart.index_select(0, index.to(self.apart.device))


class _Live(Live[Float[Tensor, " batch"]]):
    whole_prompt = True

    def __init__(self, watch: FirstToken) -> None:
        super().__init__(watch)
        self._branch = watch.branch

    @torch.no_grad()
    def end(self, now: Pass, call: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if now.last is None or logits is None:
            return
        at = (now.last - (now.count - logits.shape[1])).to(logits.device)
        if bool((at < 0).any()):
            raise InputError(
                "what two branches say of a text's first token is compared, and its logits were not"
                " kept: leave use_cache on, and logits_to_keep off"
            )
        own = logits[torch.arange(len(at), device=at.device), at]
        other = self._branch.logits_of(now.text, 0).to(own.device)
        both = (part.float().log_softmax(-1) for part in (own, other))
        kept(now.text, self.watch, _State).apart = divergence(*both)

    def at_token(self, at: AtToken) -> Float[Tensor, " batch"]:
        assert at.now is not None
        apart = kept(at.now.text, self.watch, _State).apart
        assert apart is not None
        return apart
