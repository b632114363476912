"""`Risk`: how unsure the last token was, and how little of the image speaks of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.call import Signature
from lvlm_fix.core.text import Pass, State, wide
from lvlm_fix.watches.own_pass import check_one_token, check_photos, check_sees_images

__all__ = ["Risk", "risk_of"]

BLOCK = 64  # rows of the vocabulary's width held at once in float32


def risk_of(
    logits: Float[Tensor, "batch vocabulary"],
    grounded: Float[Tensor, "batch vocabulary"],
    entropy: float,
    scale: float,
) -> Float[Tensor, " batch"]:
    """`(a·H(p)/log|V| + (1−a)·(1 − G[argmax p])) / s`, at most 1."""
    logs = logits.float().log_softmax(-1)
    unsure = -(logs.exp() * logs).nansum(-1) / math.log(logits.shape[1])
    blind = 1 - grounded.gather(1, logits.argmax(-1, keepdim=True))[:, 0]
    return ((entropy * unsure + (1 - entropy) * blind) / scale).clamp(0, 1)


@dataclass(frozen=True)
class Risk(Watch[Float[Tensor, " batch"]]):
    """The risk of the token before, 0 to 1, from the model's unedited logits: `at[Risk()]`, batch.

    G, how much of the image speaks of a token, is the largest probability that any image row gives
    it, from a pass of the unmodified model over the prompt. One row per pass behind the prompt.
    """

    entropy: float = 0.5  # weight a of the entropy; the rest is G's
    scale: float = 0.5  # what counts as a risk of 1

    def live(self, host: Host) -> _Live:
        check_sees_images(host)
        return _Live(self, host)


@dataclass
class _State(State):
    grounded: Tensor  # batch vocabulary
    risks: Tensor  # batch columns: of the token that each column's row predicts

    def widen(self, columns: int) -> None:
        self.risks = wide(self.risks, max(columns, self.risks.shape[1]))

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        self.grounded, self.risks = (
            part.index_select(0, index.to(part.device)) for part in (self.grounded, self.risks)
        )


class _Live(Live[Float[Tensor, " batch"]]):
    whole_prompt = True

    def __init__(self, watch: Risk, host: Host) -> None:
        super().__init__(watch)
        self._entropy, self._scale, self._host = watch.entropy, watch.scale, host
        self._names = Signature(host.model).names

    def begin(self, now: Pass) -> None:
        check_one_token(now, "a row's edit depends on the token before it: one token")
        if now.begins:
            risks = torch.zeros(now.text.image.shape, device=now.text.device)
            now.text.kept[self.watch] = _State(self._grounded(now), risks)
        else:
            check_photos(now, "what the image speaks of")

    @torch.no_grad()
    def _grounded(self, now: Pass) -> Float[Tensor, "batch vocabulary"]:
        """The largest probability of each token in any image row."""
        text, shown = now.text, now.text.shown[:, : now.count]
        rows = shown.any(0).nonzero().flatten()
        given = now.call.about_photo() | {"position_ids": now.call.given.get("position_ids")}
        if "logits_to_keep" in self._names:
            given["logits_to_keep"] = rows.to(text.device)
        valid = text.valid[:, : now.count]
        mask = None if bool(valid.all()) else valid.to(text.device)
        with self._host.unedited():
            output: Any = self._host.model(
                input_ids=now.ids, attention_mask=mask, use_cache=False, **given
            )
        logits = output.logits
        logits = logits if logits.shape[1] == len(rows) else logits[:, rows.to(logits.device)]
        best = torch.zeros_like(logits[:, 0], dtype=torch.float32)
        here = shown[:, rows].to(logits.device)
        for block in range(0, len(rows), BLOCK):
            part = slice(block, block + BLOCK)
            shares = logits[:, part].float().softmax(-1) * here[:, part, None]
            best = torch.maximum(best, shares.amax(1))
        return best

    @torch.no_grad()
    def end(self, now: Pass, call: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is None:
            return
        state = kept(now.text, self.watch, _State)
        row = torch.zeros(now.text.batch, dtype=torch.long) if now.last is None else now.last
        at = (row.to(logits.device) - (now.count - logits.shape[1])).clamp_min(0)
        own = logits[torch.arange(len(at), device=at.device), at]
        risk = risk_of(own, state.grounded.to(own.device), self._entropy, self._scale)
        state.risks[:, now.end - 1] = risk.to(state.risks.device)

    def value(self, at: AtLayer) -> Float[Tensor, " batch"]:
        assert at.now is not None
        text = at.now.text
        risks = kept(text, self.watch, _State).risks
        before = (text.position.to(risks.device) - 1).clamp_min(0)
        return risks.index_select(1, before)[:, 0].to(at.image.device)
