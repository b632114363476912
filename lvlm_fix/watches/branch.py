"""`Branch`: next-token logits of the unmodified model on another view of the prompt.

A branch has a cache of its own and takes the tokens of every pass, behind the main one in the same
forward. Methods do not act in it: it stands for the unmodified model, which is what the papers
contrast with.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from lvlm_fix.core.at import AtToken, Host, Live, Watch, kept
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.call import Call, Signature, cache_in
from lvlm_fix.core.next_token import targets
from lvlm_fix.core.text import Pass, State, Text
from lvlm_fix.errors import InputError, ModelError
from lvlm_fix.watches.views import Inputs, View

__all__ = ["Branch"]

ENCODE = "get_image_features"
KEPT = 16  # image features whose pixels are known


@dataclass(frozen=True)
class Branch(Watch[Float[Tensor, "batch vocabulary"]]):
    """The logits of a second pass that sees `view` in place of the prompt: batch vocabulary."""

    view: View

    def live(self, host: Host) -> _Live:
        return _Live(self, self.view, host)

    def needs(self) -> tuple[Watch[Any], ...]:
        return self.view.needs()

    def logits_of(self, text: Text, step: int) -> Float[Tensor, "batch vocabulary"]:
        """The branch's logits of a token that the last pass predicted."""
        return kept(text, self, _State).logits[step]


@dataclass
class _State(State):
    """One branch of one text."""

    cache: Cache | None = None
    mask: Tensor | None = None  # batch columns: what is not padding
    padded: bool = False
    logits: dict[int, Tensor] = field(default_factory=dict)  # of the last pass, by step

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        if self.cache is not None and self.mask is not None:
            self.cache.reorder_cache(cast(torch.LongTensor, index))
            self.mask = self.mask.index_select(0, index.to(self.mask.device))

    def cut(self, columns: int, *, prompt: bool) -> None:
        if self.cache is None or self.mask is None:
            return
        if prompt:
            raise InputError("a second branch cannot follow a cut into the prompt: pass it again")
        self.cache.crop(-columns)
        self.mask = self.mask[:, :-columns]


class _Live(Live[Float[Tensor, "batch vocabulary"]]):
    whole_prompt = True

    def __init__(self, watch: Branch, view: View, host: Host) -> None:
        super().__init__(watch)
        self._branch = watch
        model, family = host.model, host.family
        if family.runs is not model and not view.blind:
            raise ModelError(
                f"{type(model).__name__}: its language model generates alone; no second branch "
                "sees an image"
            )
        self._view, self._base = view.ready(model), model.base_model
        # a text model inside (InstructBLIP) serves alone what has no image
        speaking = [
            m
            for m in model.modules()
            if isinstance(m, PreTrainedModel) and m.get_output_embeddings()
        ]
        self._model: PreTrainedModel = speaking[-1] if view.blind else model
        self._signature, self._host = Signature(self._model), host
        # by identity: image features, what they came from, their number; the oldest first
        self._encoded: dict[int, tuple[Any, dict[str, Any], int]] = {}

    def attach(self, attached: Attached) -> None:
        """Watch `get_image_features` where pixels are needed: `generate` passes only features."""
        plain = getattr(self._base, ENCODE, None)
        if not self._view.from_pixels or plain is None:
            return

        @functools.wraps(plain)
        def encode(*args: Any, **kwargs: Any) -> Any:
            features = plain(*args, **kwargs)
            pooled = getattr(features, "pooler_output", None)  # beams will repeat it in place
            count = 0 if pooled is None else sum(map(len, pooled))
            if not self._host.aside():
                self._encoded[id(features)] = features, kwargs, count
                while len(self._encoded) > KEPT:  # of calls that never came to a pass
                    self._encoded.pop(next(iter(self._encoded)))
            return features

        attached.attribute(self._base, ENCODE, encode)

    def end(self, now: Pass, call: Call, output: Any) -> None:
        if not (goals := targets(now)):
            return
        with torch.no_grad():
            state = kept(now.text, self.watch, _State)
            state.logits = dict(
                zip((step for step, _ in goals), self._advance(state, now, call), strict=True)
            )

    def _advance(self, state: _State, now: Pass, call: Call) -> list[Tensor]:
        """The branch's logits for each token that this pass predicts: batch vocabulary."""
        new = self._view.of(self._inputs(now, call))
        if now.begins:
            state.cache, state.mask, state.padded = None, new.valid, False
        else:
            assert state.mask is not None
            state.mask = torch.cat((state.mask, new.valid), dim=1)
        if now.prompt_rows:
            state.padded |= not bool(new.valid.all())
        mask, positions = state.mask.long(), new.positions
        if self._view.counted:
            positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -new.ids.shape[1] :]
        given = new.more if positions is None else new.more | {"position_ids": positions}
        given["attention_mask"] = mask if state.padded else None
        given[self._signature.cache] = state.cache
        with self._view.seeing(new, self._host):
            output: Any = self._model(input_ids=new.ids, use_cache=True, **given)
        state.cache = cache_in(output)
        found = [output.logits[place] for place in _rows(now, new, output.logits.shape[1])]
        if new.copies > 1:
            assert state.cache is not None
            state.cache.batch_repeat_interleave(new.copies)
            state.mask = state.mask.repeat_interleave(new.copies, dim=0)
            found = [logits.repeat_interleave(new.copies, dim=0) for logits in found]
        return found

    def _inputs(self, now: Pass, call: Call) -> Inputs:
        """What the main pass was given."""
        text, ids = now.text, now.ids
        assert ids is not None
        image = torch.zeros_like(ids, dtype=torch.bool)
        valid = torch.ones_like(image)
        if rows := now.prompt_rows:
            here = slice(now.start, now.start + rows)
            image[:, :rows] = text.shown[:, here].to(ids.device)
            valid[:, :rows] = text.valid[:, here].to(ids.device)
        more = call.about_photo()
        inputs = Inputs(ids, valid, image, call.given.get("position_ids"), more, now.begins, now)
        features = (more.get("mm_encoder_outputs") or {}).get("image")
        if features is None or id(features) not in self._encoded:
            return inputs
        _, given, tokens = self._encoded[id(features)]
        pixels = Call(given).about_photo()
        return replace(inputs, pixels=pixels, beams=int(image.sum()) // max(tokens, 1))

    def at_token(self, at: AtToken) -> Float[Tensor, "batch vocabulary"]:
        assert at.now is not None
        return self._branch.logits_of(at.now.text, at.step)


def _rows(now: Pass, new: Inputs, kept_rows: int) -> list[tuple[Tensor, Tensor]]:
    """Where the branch's logits of each predicted token are, among so many kept rows."""
    width, generated = new.ids.shape[1], now.count - now.prompt_rows
    samples = torch.arange(len(new.ids), device=new.ids.device)
    places = [torch.full_like(samples, width - generated + row) for row in range(generated)]
    if now.last is not None:
        places.insert(0, _last(new.valid[:, : width - generated]))
    return [(samples, (place - (width - kept_rows)).clamp_min(0)) for place in places]


def _last(valid: Bool[Tensor, "batch query"]) -> Int[Tensor, " batch"]:
    """Each sample's last column that is not padding."""
    return (torch.arange(valid.shape[1], device=valid.device) * valid).amax(-1)
