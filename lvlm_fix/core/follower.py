"""`Follower`: which text each forward belongs to, from its first row to its edited logits."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Cache, PreTrainedModel

from lvlm_fix.core.at import Live
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.attention import Tap
from lvlm_fix.core.caches import follow, length_of, release, text_of
from lvlm_fix.core.call import Call, Signature, cache_in
from lvlm_fix.core.generating import Generating
from lvlm_fix.core.method import Method
from lvlm_fix.core.prompt_cache import settle
from lvlm_fix.core.report import count_changed
from lvlm_fix.core.text import Pass, Text
from lvlm_fix.core.turns import Edit, Turns, outside
from lvlm_fix.errors import InputError, ModelError
from lvlm_fix.families import Family
from lvlm_fix.private import recomputes

__all__ = ["Follower"]


class Follower:
    """Follows the passes of one model while methods are attached to it. What is known of a text is
    kept with its cache.
    """

    def __init__(self, model: PreTrainedModel, family: Family, methods: int) -> None:
        self.model, self.family = model, family
        self.turns = Turns(self._begin, self._end)
        self.last: Text | None = None  # the text that began last: what reports tell of
        self.lives: Sequence[Live[Any]] = ()
        self.acting: frozenset[int] = frozenset()  # layers in which a method acts
        self.taps: list[Tap] = []
        self._methods, self._signature = methods, Signature(family.runs)
        self._generating = Generating()
        self._caches = weakref.WeakSet[Cache]()
        self._embedded: Tensor | None = None  # ids that a model embeds before its decoder runs
        self._checked = False
        self.unreached: frozenset[int] = frozenset()  # acting layers without attention of this kind

    def attach(self, attached: Attached, edit: Edit, own: tuple[int, Method] | None = None) -> None:
        """Run every forward of the model within a pass, then `edit` its output. `own`: the method
        that decodes, and its place.
        """
        runs = self.family.runs
        self._generating.attach(attached, runs, self.family.image_tokens, own)
        base = runs.base_model
        for part in (runs,) if base is runs else (runs, base):
            within = self.turns.wrapped(part, edit if part is runs else None)
            attached.attribute(part, "forward", within)
        if runs is not self.model:  # it is given embeddings: remember of what
            attached.before(self.model.get_input_embeddings(), self._embed)
        self.turns.attach(attached, self.model)
        attached.call(self._release)

    def _release(self) -> None:
        for cache in list(self._caches):
            release(cache)

    def _embed(self, _: Any, args: tuple[Tensor, ...]) -> None:
        self._embedded = args[0]

    # before a pass

    @torch.no_grad()
    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Find the text of a call, and append a pass to it."""
        call = self._signature.call(args, kwargs)
        ids = self._ids(call)
        if self.model.training and recomputes(self.model):
            raise InputError("methods do not act in recomputed passes: turn checkpointing off")
        frame, cache = self._generating.frame, call.cache
        text = None if cache is None else self._known(cache)
        start = 0 if text is None else text.length
        promised = None if frame is None else frame.promised(start, ids.shape[1])
        if text is not None:
            self._generating.check(text)
        if text is None:
            static = cache is not None and cache.is_compileable
            text = Text(self, self.family.image_tokens, len(ids), static, ids.device)
            zero = torch.zeros((), dtype=torch.long, device=ids.device)
            text.edited = {number: zero.clone() for number in range(self._methods)}
            if frame is None or frame.text is None or promised is not None:
                self.last = text
                if frame is not None:
                    frame.text = text
        now = self.turns.now = text.advance(ids, call.valid(ids), promised)
        now.call = call
        if cache is not None:
            self._follow(cache, text)
        for live in self.lives:
            if text.any_with_image or live.always:
                if live.whole_prompt and now.prompt_rows and not (now.begins and now.complete):
                    self._in_parts(live, now)
                live.begin(now)
        return call

    def _in_parts(self, live: Live[Any], now: Pass) -> None:
        """Raise `InputError` where a prompt with image came in parts that a watch cannot join."""
        if now.begins or live.watch not in now.text.kept:
            raise InputError(
                f"{type(live.watch).__name__} needs the whole prompt in one pass, but this one came"
                " in parts: leave prefill_chunk_size off, or pass the whole conversation at once"
            )

    def _ids(self, call: Call) -> Tensor:
        """The ids of a pass; for a decoder that is given embeddings, the ids embedded last."""
        ids, embeds = call.ids, call.given.get("inputs_embeds")
        if ids is None and self._embedded is not None and embeds is not None:
            ids = self._embedded.repeat_interleave(len(embeds) // len(self._embedded), dim=0)
        if ids is None or (embeds is not None and ids.shape[:2] != embeds.shape[:2]):
            raise InputError(
                "image tokens are found by their ids: pass input_ids, not inputs_embeds alone"
            )
        return ids

    def _known(self, cache: Cache) -> Text | None:
        """The text of a cache; None for an empty one."""
        text = text_of(cache, self)
        if text is not None and cache.is_compileable:
            return text if text.length else None  # no look into it: no wait for the device
        held = length_of(cache)
        if text is None or held > text.length:
            if held:
                raise InputError(
                    f"the cache holds {held} tokens from outside this fix, or from a pass that "
                    "failed: start from an empty cache"
                )
            return None
        if held < text.length:
            text.cut(held)
        return text if held else None

    def _follow(self, cache: Cache, text: Text) -> None:
        follow(cache, text)
        self._caches.add(cache)

    # behind a pass

    @outside
    def _end(self, call: Call, output: Any, edit: Edit | None) -> None:
        now = self.turns.now
        assert now is not None
        text = now.text
        made = cache_in(output) if isinstance(output, dict | tuple) else None
        if call.cache is None and made is not None:
            self._follow(made, text)
            if not made.is_compileable and length_of(made) > text.length:
                self._fail("its cache was not seen at the start")
        settle(now, call.cache if made is None else made)
        if text.any_with_image:
            with self.turns.unedited():
                for live in self.lives:
                    live.end(now, call, output)
                if edit is not None:
                    edit(now, call, output)
        if not self._checked and now.editable and self.acting:
            self._checked = True
            self.unreached = self.acting - set(now.reached)
            if self.unreached == self.acting:
                self._fail(f"the attention of layers {sorted(self.acting)} was not seen")
        with torch.no_grad():
            count_changed(now)

    def _fail(self, what: str) -> None:
        raise ModelError(
            f"{type(self.model).__name__}: {what}, so no method can act correctly (transformers "
            f"{transformers.__version__}, torch {torch.__version__}): please report this"
        )
