"""`Layer`: what acts in one decoder layer, sorted once, and the edits of its attention."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lvlm_fix.core.at import AtLayer, Live, Rows, Watch, closure
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.follower import Follower
from lvlm_fix.core.hidden import HiddenStates
from lvlm_fix.core.method import Method
from lvlm_fix.core.prompt_cache import PromptCache
from lvlm_fix.core.rows import edited_rows, row_logits, row_options, seen_logits, softmax, weigh
from lvlm_fix.core.text import Pass

__all__ = ["Layer"]

Numbered = tuple[tuple[int, Method], ...]
Lives = Mapping[Watch[Any], Live[Any]]


class Layer:
    """Stands in the attention module of one decoder layer while methods are attached.

    Methods act in the order they were listed, at each place; places follow the data.
    """

    def __init__(
        self, number: int, depth: int, follower: Follower, methods: Numbered, lives: Lives
    ) -> None:
        self.number, self.depth, self.follower, self.lives = number, depth, follower, lives
        declared = [w for _, m in methods for w in m.watches(depth)]
        self._here = [lives[watch] for watch in closure(declared)]
        self._logits, self._weights, self._outputs = (
            tuple((i, m) for i, m in methods if place in m.edits())
            for place in ("attention_logits", "attention_weights", "head_outputs")
        )
        self._lookers = [live for live in self._here if live.wants_new_rows]
        self.hidden = HiddenStates(self, methods)
        self._prompt = PromptCache(methods)
        self.acting = bool(methods)
        # whether its attention must be seen for the methods to act
        self.attends = bool(
            self._logits or self._weights or self._outputs or self._prompt.acting
        ) or any(m.watches(depth) for _, m in methods if m.edits() != ("hidden_states",))

    def attend(
        self, plain: Attend, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The registered attention function: the wrapped implementation, then the edits."""
        now = self.now()
        if now is None:
            for tap in self.follower.taps:
                plain = tap(self.number, plain)
            return plain(module, *args, **kwargs)
        now.reached.append(self.number)
        if now.text.static and now.prompt_rows:
            now.text.widest = max(now.text.widest, args[1].shape[2])
        shown = now.text.any_with_image
        for live in self._here:
            if shown or live.always:
                live.enter(self.number, now)
        if not (self.acting and shown):
            return plain(module, *args, **kwargs)
        return self._edit(plain, module, now, *args, **kwargs)

    def now(self) -> Pass | None:
        """The running pass, if it is this thread's."""
        now = self.follower.turns.now
        if now is None or torch.compiler.is_compiling():
            return now
        return now if now.thread == threading.get_ident() else None

    def _edit(
        self, plain: Attend, module: nn.Module, now: Pass, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value, *rest = args
        mask = rest[0] if rest else kwargs.get("attention_mask")
        text = now.text
        if (
            now.index is not None and text.static
        ):  # behind the text are empty places, maybe unmasked
            key, value = key[:, :, : text.length], value[:, :, : text.length]
        at = self.at(now, key.shape[2], query.device)
        if now.prompt_rows:
            looking = any(live.wants_rows for live in self._here)
        else:
            looking = bool(self._lookers)
        before = after = None
        if now.editable and (self._logits or self._weights or looking):
            options = row_options(module, kwargs)
            before, after = self._edit_rows(at, now, query, key, value, mask, options)
        if after is not None and before is None:  # the row is all there is: keys are read once
            output, weights = weigh(after, value).to(query.dtype), after.to(query.dtype)
        else:
            output, weights = plain(module, *args, **kwargs)
            if before is not None and after is not None:
                index = edited_rows(now).to(output.device)
                output = output.index_add(1, index, weigh(after - before, value).to(output.dtype))
                if weights is not None and weights.ndim == 4:  # eager; flex attention returns sums
                    weights = weights.index_copy(2, index, after.to(weights.dtype))
        if self._prompt.acting:
            options = row_options(module, kwargs)
            output = self._prompt.edit(at, query, key, value, mask, options, output)
        return self._edit_heads(at, now, output), weights

    def at(self, now: Pass, n_keys: int, device: torch.device) -> AtLayer:
        """The context of one layer; masks are cut once per pass, number of keys and device."""
        if (n_keys, device) not in now.masks:
            text = now.text
            now.masks[n_keys, device] = tuple(
                mask.to(device)
                for mask in (
                    text.columns(text.image, n_keys),
                    text.columns(text.before_image, n_keys),
                    now.active,
                    now.final,
                )
            )
        image, before, active, _ = now.masks[n_keys, device]
        prefill = now.prompt_rows > 0
        return AtLayer(
            self.number, self.depth, prefill, image, before, active, self.lives, now.prompt_rows,
            now.count, now,
        )  # fmt: skip

    def _edit_rows(
        self, at: AtLayer, now: Pass, query: Tensor, key: Tensor, value: Tensor, mask: object,
        options: Any,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        """Weights of the rows that may be edited, before and after; both None for no edit.

        Those before are None, too, if the one row is edited in every sample: nobody needs them.
        """

        def some(index: Tensor) -> Tensor:
            rows = query.index_select(2, index)
            return row_logits(rows, key, mask, index, query.shape[2], **options)

        rows = query if now.index is None else query.index_select(2, now.index.to(query.device))
        edited = logits = seen_logits(now, rows, query, key, mask, options)
        for number, method in self._logits:
            new = method.attention_logits(edited, self._for(at, now, method))
            if new is not edited:
                new = torch.where(edited > -torch.inf, new, edited)  # what is hidden stays hidden
            edited = self._accept(at, now, number, method, edited, new)
        weights = softmax(edited, now)
        lookers = self._here if now.prompt_rows else self._lookers
        unneeded = now.whole and not lookers
        plain = weights if edited is logits else None if unneeded else softmax(logits, now)
        if plain is not None:
            for live in lookers:
                live.look(at, Rows(logits, plain, value, some))
        at.logits = edited
        for number, method in self._weights:
            new = method.attention_weights(weights, self._for(at, now, method))
            weights = self._accept(at, now, number, method, weights, new)
        if weights is plain:
            return None, None
        return None if now.whole else plain, weights

    def _for(self, at: AtLayer, now: Pass, method: Method) -> AtLayer:
        """The context as one method sees it: the rows it may edit."""
        _, _, active, final = now.masks[at.image.shape[1], at.image.device]
        at.rows = final if method.reach == "last" else active
        return at

    def _accept(
        self, at: AtLayer, now: Pass, number: int, method: Method, old: Tensor, new: Tensor
    ) -> Tensor:
        """Keep an edit only in the rows it may touch; remember which it changed."""
        if new is old:
            return old
        if not now.whole:
            new = torch.where(at.rows[:, None, :, None], new, old)
        if now.index is None:
            now.changed.append((number, (old, new)))  # compared behind the pass, all layers at once
        else:
            now.changed.append((number, ((new != old).any(-1, True),)))
        return new

    def _edit_heads(self, at: AtLayer, now: Pass, output: Tensor) -> Tensor:
        """Let heads be chosen (at the end of a prompt), and edit their outputs."""
        if now.prompt_rows:
            for live in self._here:
                live.leave(at, output)
        for number, method in self._outputs:
            at.rows = now.active
            edited = method.head_outputs(output, at)
            if edited is not output and not now.text.all_with_image:
                shown = now.text.with_image.to(output.device)[:, None, None, None]
                edited = torch.where(shown, edited, output)
            if edited is not output:
                now.changed.append((number, output.shape[1]))
            output = edited
        return output
