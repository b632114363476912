"""`fix`: attach methods to a model, detach them, restore everything.

It needs these handles on a model: a registered attention function; a pre-hook on its forward (which
tokens are image tokens, is this a new prompt) and a hook (the next token's logits); for methods
that need sinks or early layers, hooks on the decoder layers; and `reorder_cache` of the prompt's
cache, to follow the beams.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.compiler import disable
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lvlm_fix.attention import PREFIX, SITE, Attend, register, row_logits, row_options, weigh
from lvlm_fix.errors import InputError, ModelError, SettingError
from lvlm_fix.families import Family, entering, family_of
from lvlm_fix.method import Method, Seen
from lvlm_fix.methods import resolve
from lvlm_fix.next_token import NextToken
from lvlm_fix.prompt import ROOM, Prompt
from lvlm_fix.report import Report, report_of
from lvlm_fix.sinks import discover_channels, is_sink, published_channels, sink_masks
from lvlm_fix.text_only import TextOnly
from lvlm_fix.vision import Tower

__all__ = ["Fix", "fix"]


def fix(model: PreTrainedModel, method: str | Method | Sequence[str | Method]) -> Fix:
    """Let methods act on `model` until the block ends or `.remove()` is called.

    Args:
        model: any Hugging Face image-text-to-text model whose decoder uses the attention interface.
        method: a name ("vhr"), names in order ("var+vhr"), a method, or a list of them. At each
        place they act in
            the order given; places follow the data: attention, head outputs, then the next token's
            logits.

    Raises:
        UnknownNameError: no method of that name. ModelError: the model misses what a method needs.
        SettingError: a method is set to act in a layer that the model has not.
    """
    return Fix(model, resolve(method))


BLOCK = 128  # rows of attention held at once where a method asks for the means of columns
Numbered = tuple[tuple[int, Method], ...]


@dataclass(frozen=True)
class Acting:
    """The methods that act in one layer, by number, and what each is asked for: sorted once, not in
    every pass.
    """

    every: Numbered
    logits: Numbered
    weights: Numbered
    outputs: Numbered
    scoring: Numbered
    keep: bool  # some method is to see the last row's weights
    received: tuple[float, ...]  # factors of sinks by received attention
    columns: bool  # some method is to see the means of columns

    @classmethod
    def of(cls, every: Numbered) -> Acting:
        """Sort the methods of a layer by the places they edit."""
        logits, weights, outputs, scoring = (
            tuple((i, m) for i, m in every if getattr(type(m), place) is not getattr(Method, place))
            for place in ("attention_logits", "attention_weights", "head_outputs", "score_heads")
        )
        rules = [m.sink_rule() for _, m in every if "sinks" in m.needs]
        received = tuple(value for rule, value in rules if rule == "received")
        needs = frozenset[str]().union(*(m.needs for _, m in every))
        return cls(
            every,
            logits,
            weights,
            outputs,
            scoring,
            "weights" in needs,
            received,
            "received" in needs,
        )


class Fix:
    """Methods attached to a model: a context manager, and a handle with `.remove()`, `.report()`
    and `.scores()`.
    """

    def __init__(self, model: PreTrainedModel, methods: tuple[Method, ...]) -> None:
        self.model, self.methods = model, methods
        self.family: Family = family_of(model)
        self._wrapped: str = self.family.decoder.config._attn_implementation or "sdpa"
        self._depth = len(self.family.layers)
        for method in methods:
            if beyond := [layer for layer in method.acts_in(self._depth) if layer >= self._depth]:
                name = method.method_name()
                raise SettingError(
                    f"{name}: there is no layer {beyond[0]}; this model has {self._depth}, from 0"
                )
        self._at = tuple(
            Acting.of(
                tuple((i, m) for i, m in enumerate(methods) if layer in _layers_of(m, self._depth))
            )
            for layer in range(self._depth)
        )
        heads = self.family.decoder.config.num_attention_heads
        self._given = {
            i: given for i, m in enumerate(methods) if (given := m.given_heads(self._depth, heads))
        }
        views = [view for method in methods if (view := method.second_view()) is not None]
        if self.family.runs is not model and not all(view.counted for view in views):
            raise ModelError(
                f"{type(model).__name__}: its language model generates alone; no second branch sees an image"
            )
        self._next_token = NextToken(methods, model, self.family)
        self._needs = frozenset[str]().union(*(m.needs for m in methods))
        thresholds = {
            value
            for rule, value in (m.sink_rule() for m in methods if "sinks" in m.needs)
            if rule == "channels"
        }
        if len(thresholds) > 1:
            raise ModelError("two methods with different sink thresholds cannot act at once")
        self._threshold = next(iter(thresholds), None)
        self._text_only = TextOnly(model, self.family)
        self._tower = Tower(model) if "vision" in self._needs else None
        self._prompt: Prompt | None = None
        self._cache: Any = None
        self._channels: Tensor | None = (
            None  # where sinks grow massive; None before the first prompt
        )
        self._entering: dict[
            int, Tensor
        ] = {}  # of this pass, by layer: the hidden states, until its attention runs
        self._pass: dict[
            tuple[int, torch.device], tuple[Tensor, Tensor, Tensor]
        ] = {}  # masks by keys and device
        self._changed: list[
            tuple[int, Tensor | int]
        ] = []  # of this pass: method, rows it changed or where
        self._prefill = self._begins = (
            False  # a pass over several tokens; over the first of a prompt
        )
        self._ids = torch.empty(0)
        self._embedded: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        self._attach()

    # attaching
    # ----------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        if self._wrapped.startswith(PREFIX):
            raise ModelError(
                "this model is fixed already; name all methods at once, as in 'var+vhr'"
            )
        name = register(self._wrapped)
        try:
            self._switch(name)
            for module in self.family.attentions:
                module.__dict__[SITE] = self
            begin, end = (
                cast(Any, disable(self._begin)),
                cast(Any, disable(self._end)),
            )  # beside a compiled pass
            runs = self.family.runs
            self._hooks.append(runs.register_forward_pre_hook(begin, with_kwargs=True))
            self._hooks.append(runs.register_forward_hook(end, with_kwargs=True))
            if runs is not self.model:  # it is given embeddings: remember of what
                self._hooks.append(
                    self.model.get_input_embeddings().register_forward_pre_hook(self._embed)
                )
            self._next_token.attach()
            if self._tower is not None:
                self._tower.attach()
                self._hooks.append(self.family.decoder.register_forward_pre_hook(self._mark))
        except BaseException:
            self.remove()
            raise

    def _switch(self, name: str) -> None:
        self.model.set_attn_implementation({self.family.config_key: name})
        if self.family.decoder.config._attn_implementation != name:
            raise ModelError(
                f"{type(self.model).__name__}: its decoder does not use the attention interface"
            )

    def remove(self) -> None:
        """Detach; the model, its configuration and its hooks are as before. May be called twice."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._next_token.remove()
        for module in self.family.attentions:
            module.__dict__.pop(SITE, None)
        if self._tower is not None:
            self._tower.remove()
        if self.family.decoder.config._attn_implementation != self._wrapped:
            self.model.set_attn_implementation({self.family.config_key: self._wrapped})
        self._follow(None)

    def __enter__(self) -> Fix:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    # what acted
    # ---------------------------------------------------------------------------------------------

    def report(self) -> list[Report]:
        """What every method did since the last prompt began: heads chosen, sinks found, rows
        edited.
        """
        return [
            report_of(number, method, self._prompt, self._depth)
            for number, method in enumerate(self.methods)
        ]

    def scores(self, method: int = 0) -> Tensor:
        """The head scores that a method gave the last prompt: batch layers heads; NaN in layers it
        did not score.
        """
        found = {} if self._prompt is None else self._prompt.scores
        layers = {layer: scores for (number, layer), scores in found.items() if number == method}
        if not layers:
            raise InputError(
                "no heads were scored: run a prompt with an image through the model first"
            )
        some = next(iter(layers.values()))
        blank = torch.full_like(some, torch.nan)
        return torch.stack(
            [layers.get(layer, blank).to(some.device) for layer in range(self._depth)], dim=1
        )

    # one forward pass
    # ---------------------------------------------------------------------------------------

    def _embed(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._embedded = args[0]

    def _ids_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The ids of this pass; of a language model that is given embeddings, those embedded last."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None and self._embedded is not None:
            ids = self._embedded.repeat_interleave(
                len(kwargs["inputs_embeds"]) // len(self._embedded), dim=0
            )
        if ids is None:
            raise InputError(
                "image tokens are found by their ids: pass input_ids, not inputs_embeds alone"
            )
        return ids

    @torch.no_grad()
    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the prompt of a prefill; count the columns of a decoding step."""
        ids = self._ids_of(args, kwargs)
        cache = kwargs.get("past_key_values")
        known = cache is not None and cache is self._cache
        self._pass, self._changed, self._entering = {}, [], {}
        if (
            known and self._prompt is not None and ids.shape[1] == 1
        ):  # no look into the cache: no wait for the device
            self._prefill = self._begins = False
            self._prompt.step()
            return
        past = 0 if cache is None else int(cache.get_seq_length())
        if past > 0 and not known:
            raise InputError(
                f"the cache holds {past} tokens from outside of this fix; start from an empty cache"
            )
        earlier = self._prompt if known and past > 0 else None
        image = torch.isin(ids, torch.tensor(self.family.image_tokens, device=ids.device))
        if earlier is not None:
            if past < earlier.length and self._next_token:
                raise InputError(
                    "the cache was cut (assisted generation does so); a second branch cannot follow"
                )
            compares = "no_image" in self._needs or self._next_token.branches
            if compares and not earlier.any_with_image and image.any():
                raise InputError(
                    "the first image came after a turn without one: pass the whole conversation at once"
                )
            earlier.length = past
        static = cache is not None and cache.is_compileable
        valid = _valid(kwargs.get("attention_mask"), ids)
        self._prompt = Prompt.read(image, valid, earlier, static=static, methods=len(self.methods))
        self._prefill, self._begins, self._ids = True, earlier is None, ids
        self._follow(cache)
        if self._threshold is not None and self._channels is None:
            self._find_channels(ids)
        if not self._prompt.any_with_image:
            return
        for number, (scores, chosen) in self._given.items():
            for layer in self.methods[number].acts_in(self._depth):
                if (number, layer) in self._prompt.heads:  # of an earlier turn
                    continue
                self._prompt.scores[number, layer] = (
                    scores[layer].to(ids.device).expand(len(ids), -1)
                )
                self._prompt.heads[number, layer] = self._prompt.with_image[:, None] & chosen[
                    layer
                ].to(ids.device)
        if "no_image" in self._needs and earlier is None:
            before = self._prompt.before_image & self._prompt.with_image[:, None]
            with self._unedited() as prompt:
                prompt.no_image = self._text_only.outputs(ids, prompt.valid & ~image, before)

    @contextmanager
    def _unedited(self) -> Generator[Prompt]:
        """Passes in which nothing acts, in the midst of a prompt: as if there were none."""
        prompt, self._prompt = self._prompt, None
        assert prompt is not None
        try:
            yield prompt
        finally:
            self._prompt = prompt

    @torch.no_grad()
    def _end(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Edit the next token's logits and count what this pass changed.

        After a prefill, make room for the text and remember a cache that it has made.
        """
        prompt = self._prompt
        if prompt is None:
            return
        if self.family.runs is not self.model:
            args, kwargs = (), kwargs | {"input_ids": self._ids_of(args, kwargs)}
        if self._next_token and prompt.any_with_image:
            kind = "prompt" if self._begins else "turn" if self._prefill else "token"
            with self._unedited():
                self._changed += self._next_token.edit(output, args, kwargs, prompt, kind)
        self._count(prompt)
        if self._prefill:
            prompt.widen(
                max(prompt.widest, prompt.length) if prompt.static else prompt.length + ROOM
            )
            if self._cache is None:
                self._follow(getattr(output, "past_key_values", None))

    def _count(self, prompt: Prompt) -> None:
        """Add up the rows that this pass changed: layers of one shape at once."""
        rows, alike = (
            Counter[int](),
            defaultdict[tuple[int, torch.Size, torch.device], list[Tensor]](list),
        )
        for number, changed in self._changed:
            if isinstance(changed, int):
                rows[number] += changed
            else:
                alike[number, changed.shape, changed.device].append(changed)
        for number, count in rows.items():
            prompt.edited[number].add_(count)
        for (number, *_), flags in alike.items():
            edited = prompt.edited[number]
            edited.add_(
                torch.stack(flags).view(torch.uint8).amax(-1).sum().to(edited.device)
            )  # `any`, faster

    def _follow(self, cache: Any) -> None:
        """Let go of the prompt's cache for another; state that grows with the text follows its
        beams.
        """
        if self._cache is not None:
            self._cache.__dict__.pop("reorder_cache", None)
        self._cache = cache
        if cache is None:
            return
        plain = cache.reorder_cache

        def reorder(index: Tensor) -> None:
            plain(index)
            if self._prompt is not None:
                self._prompt.reorder(index)
            self._next_token.reorder(index)

        cache.reorder_cache = reorder

    def _mark(self, *_: Any) -> None:
        """Before the decoder of a prefill: what the vision tower looked at becomes marks of image
        tokens.
        """
        prompt, tower = self._prompt, self._tower
        if tower is None or prompt is None or not self._prefill:
            return
        start = prompt.length - self._ids.shape[1]
        new = prompt.image[:, start:]
        found = tower.patches(new)
        if found is None:
            if new.any():
                raise InputError(
                    "the photos did not pass the vision tower: give pixel values, not finished features"
                )
            return
        vision = torch.zeros(len(new), 2, prompt.length, device=found.device)
        if prompt.vision is not None:
            vision[..., :start] = prompt.vision[..., :start]
        vision[..., start:].transpose(1, 2)[new.to(found.device)] = found.T
        prompt.vision, image = vision, prompt.image.to(found.device)
        prompt.marks = {
            i: m.mark_tokens(vision, image)
            for i, m in enumerate(self.methods)
            if "vision" in m.needs
        }

    # sinks
    # --------------------------------------------------------------------------------------------------

    def _find_channels(self, ids: Tensor) -> None:
        """The channels of this model, as published or else of the first tokens of these prompts,
        and hooks for them.
        """
        assert self._threshold is not None
        with self._unedited() as prompt:
            first = ids[torch.arange(len(ids)), prompt.valid[:, -ids.shape[1] :].int().argmax(-1)][
                :, None
            ]
            config = self.family.decoder.config
            found = published_channels(config) or discover_channels(
                self.family, first, self._threshold
            )
        self._channels = torch.tensor(found, device=ids.device, dtype=torch.long)
        for number, layer in enumerate(self.family.layers if found else ()):
            if any("sinks" in m.needs for _, m in self._at[number].every):
                self._hooks.append(
                    layer.register_forward_pre_hook(self._keep(number), with_kwargs=True)
                )

    def _keep(self, layer: int) -> Any:
        """A pre-hook that keeps what enters `layer` until its attention looks for sinks in it."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._prompt is not None:
                self._entering[layer] = entering(args, kwargs)

        return hook

    def _mark_sinks(self, layer: int, prompt: Prompt, hidden: Tensor) -> None:
        """Mark the sinks among the positions that entered `layer`."""
        assert self._threshold is not None and self._channels is not None
        new = is_sink(hidden, self._channels.to(hidden.device), self._threshold)
        before = prompt.sinks.get(layer)
        if not self._prefill and before is not None:  # a column of text
            before.select(1, 1).index_copy_(1, prompt.position.to(new.device), new)
            return
        start = prompt.length - new.shape[1]
        new = new * prompt.valid[:, start : prompt.length].to(new.device)
        sinks = new if before is None else torch.cat((before[:, 1, :start], new), dim=1)
        prompt.sinks[layer] = sink_masks(prompt.image[:, : prompt.length].to(sinks.device), sinks)

    # attention
    # ----------------------------------------------------------------------------------------------

    def attend(
        self, plain: Attend, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The registered attention function: the wrapped implementation, then the edits of this
        layer.
        """
        layer: int = module.layer_idx  # type: ignore[assignment]
        acting, prompt = self._at[layer], self._prompt
        if prompt is not None:
            if self._prefill and prompt.static:
                prompt.widest = max(prompt.widest, args[1].shape[2])
            if (hidden := self._entering.pop(layer, None)) is not None:
                self._mark_sinks(layer, prompt, hidden)
        if acting.every and prompt is not None and prompt.any_image:
            return self._edit(plain, module, layer, prompt, *args, **kwargs)
        output, weights = plain(module, *args, **kwargs)  # batch query heads dim
        if acting.every:
            self._text_only.record(layer, output)
        return output, weights

    def _edit(
        self,
        plain: Attend,
        module: nn.Module,
        layer: int,
        prompt: Prompt,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The attention of a layer in which something acts."""
        acting = self._at[layer]
        query, key, value, *rest = args
        mask = rest[0] if rest else kwargs.get("attention_mask")
        if (
            self._prefill and prompt.static
        ):  # behind the prompt there are empty places, and there may be no mask
            key, value = key[:, :, : prompt.length], value[:, :, : prompt.length]
        seen = self._seen(layer, key.shape[2], query.device)
        before = after = None
        if acting.logits or acting.weights or (self._prefill and acting.keep):
            for name in ("s_aux", "position_bias"):  # learned sinks; relative positions
                if kwargs.get(name) is not None:
                    raise ModelError(f"attention with {name} cannot be edited by rows")
            before, after = self._edit_rows(
                seen, prompt, acting, query, key, mask, row_options(module, kwargs)
            )
        if (
            after is not None and before is None
        ):  # the row is all there is: keys and values are read once
            output, weights = weigh(after, value).to(query.dtype), after.to(query.dtype)
        else:
            output, weights = plain(module, *args, **kwargs)
            if before is not None and after is not None:
                index = (
                    prompt.text.index if self._prefill else torch.zeros_like(prompt.position)
                ).to(output.device)
                output = output.index_add(1, index, weigh(after - before, value).to(output.dtype))
                if weights is not None and weights.ndim == 4:  # eager; flex attention returns sums
                    weights = weights.index_copy(2, index, after.to(weights.dtype))
        return self._edit_heads(seen, prompt, acting, output), weights

    def _seen(self, layer: int, n_keys: int, device: torch.device) -> Seen:
        """The context of one layer; masks are cut once per pass, number of keys and device."""
        prompt = self._prompt
        assert prompt is not None
        if (n_keys, device) not in self._pass:
            rows = prompt.text.active if self._prefill else prompt.with_image[:, None]
            image, before = (
                prompt.columns(prompt.image, n_keys),
                prompt.columns(prompt.before_image, n_keys),
            )
            self._pass[n_keys, device] = image.to(device), before.to(device), rows.to(device)
        image, before, rows = self._pass[n_keys, device]
        return Seen(layer, self._depth, self._prefill, image, before, rows)

    def _edit_rows(
        self,
        seen: Seen,
        prompt: Prompt,
        acting: Acting,
        query: Tensor,
        key: Tensor,
        mask: object,
        options: dict[str, Any],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Weights of the text rows (prefill) or of the one row, before and after the edits; both
        None for no edit.

        Those before are None, too, where the one row is edited in every sample: nobody needs them.
        """
        text = prompt.text if self._prefill else None
        index = None if text is None else text.index.to(query.device)
        some = query if index is None else query.index_select(2, index)
        logits = row_logits(some, key, mask, index, query.shape[2], **options)
        if self._prefill and acting.columns and seen.layer not in prompt.received:
            prompt.received[seen.layer] = self._column_means(prompt, query, key, mask, options)
        edited = logits
        for number, method in acting.logits:
            new = method.attention_logits(edited, self._for(seen, prompt, number))
            if new is not edited:
                new = torch.where(
                    edited > -torch.inf, new, edited
                )  # what a window hides stays hidden
            edited = self._accept(number, method, edited, new, prompt, seen)
        weights = _softmax(edited, self._prefill)
        whole = not self._prefill and prompt.all_with_image
        before = weights if edited is logits else None if whole else _softmax(logits, self._prefill)
        seen.logits = edited
        if before is not None and self._prefill and acting.received:
            self._received_sinks(seen, prompt, acting.received[0], before)
        for number, method in acting.weights:
            new = method.attention_weights(weights, self._for(seen, prompt, number))
            weights = self._accept(number, method, weights, new, prompt, seen)
        if before is not None and text is not None and acting.keep:
            seen.ids, seen.positions, seen.last, seen.weights = (
                self._ids,
                index,
                text.at.to(before.device),
                before,
            )
        if weights is before:
            return None, None
        return None if whole else before, weights

    def _edit_heads(self, seen: Seen, prompt: Prompt, acting: Acting, output: Tensor) -> Tensor:
        """Choose heads (prefill) and edit their outputs: batch query heads dim."""
        if self._prefill and acting.scoring:
            self._choose(seen, prompt, acting.scoring, output)
        for number, method in acting.outputs:
            key = number, seen.layer
            if self._prefill and key in prompt.heads:  # heads that a table gave follow their layer
                prompt.scores[key], prompt.heads[key] = (
                    found[key].to(output.device) for found in (prompt.scores, prompt.heads)
                )
            seen.scores, seen.heads = prompt.scores.get(key), prompt.heads.get(key)
            edited = method.head_outputs(output, seen)
            if edited is not output:
                self._changed.append((number, output.shape[1]))
            output = edited
        return output

    def _for(self, seen: Seen, prompt: Prompt, number: int) -> Seen:
        """The context as one method sees it: its heads, its scores, the sinks of this layer."""
        seen.scores, seen.heads = (
            prompt.scores.get((number, seen.layer)),
            prompt.heads.get((number, seen.layer)),
        )
        sinks = prompt.sinks.get(seen.layer)
        n_keys, device = seen.image.shape[1], seen.image.device
        seen.sinks = None if sinks is None else prompt.columns(sinks, n_keys).to(device)
        received, marks = prompt.received.get(seen.layer), prompt.marks.get(number)
        if received is not None:
            seen.received, seen.tokens = prompt.columns(received, n_keys).to(device), prompt.tokens
        if marks is not None:
            seen.marks = prompt.columns(marks, n_keys).to(device)
        return seen

    def _column_means(
        self, prompt: Prompt, query: Tensor, key: Tensor, mask: object, options: dict[str, Any]
    ) -> Tensor:
        """What every key receives on average over all of the prompt's rows, block by block: batch
        heads key.
        """
        length = query.shape[2]
        valid = prompt.valid[:, prompt.length - length : prompt.length].to(query.device)
        total = torch.zeros(query.shape[0], query.shape[1], key.shape[2], device=query.device)
        for rows in torch.arange(length, device=query.device).split(BLOCK):
            some = query.index_select(2, rows)
            weights = row_logits(some, key, mask, rows, length, **options).softmax(-1)
            total += weights.masked_fill(~valid[:, None, rows, None], 0.0).sum(2)
        prompt.tokens = valid.sum(-1)
        return total / prompt.tokens.clamp_min(1)[:, None, None]

    def _accept(
        self, number: int, method: Method, old: Tensor, new: Tensor, prompt: Prompt, seen: Seen
    ) -> Tensor:
        """Keep an edit only in the rows it may touch; count the rows it changed."""
        if new is old:
            return old
        active = seen.rows
        if self._prefill and method.reach == "last":
            active = active & prompt.text.final.to(active.device)
        if self._prefill or not prompt.all_with_image:
            new = torch.where(active[:, None, :, None], new, old)
        changed = new != old
        self._changed.append((number, changed.any(-1, keepdim=True) if self._prefill else changed))
        return new

    def _received_sinks(self, seen: Seen, prompt: Prompt, factor: float, plain: Tensor) -> None:
        """Sinks by received attention: what the prompt's text rows give a key on average, against
        the uniform share.
        """
        active = seen.rows[:, None, :, None]
        mean = (plain * active).sum((1, 2)) / (active.sum((1, 2)) * plain.shape[1]).clamp_min(1)
        count = prompt.columns(prompt.valid, mean.shape[1]).sum(-1, keepdim=True).to(mean.device)
        prompt.sinks[seen.layer] = sink_masks(seen.image, mean * count > factor)

    def _choose(self, seen: Seen, prompt: Prompt, scoring: Numbered, output: Tensor) -> None:
        """Once per prompt and layer: every method that picks heads scores and chooses them."""
        seen.outputs = output[torch.arange(len(output)), prompt.last.to(output.device)]
        seen.no_image = prompt.no_image.get(seen.layer)
        for number, method in scoring:
            if (number, seen.layer) in prompt.heads:
                continue
            scores = method.score_heads(seen)
            if scores is not None:
                heads = method.choose_heads(scores, seen) & prompt.with_image[:, None].to(
                    scores.device
                )
                prompt.scores[number, seen.layer], prompt.heads[number, seen.layer] = scores, heads


def _layers_of(method: Method, layers: int) -> frozenset[int]:
    """The layers in which a method acts; none where it edits the next token's logits alone."""
    return frozenset(() if method.edits() == ("next_token_logits",) else method.acts_in(layers))


def _softmax(logits: Tensor, prefill: bool) -> Tensor:
    """The weights; a padding row of a prefill, which sees nothing, has none."""
    return logits.softmax(-1).nan_to_num(0.0) if prefill else logits.softmax(-1)


def _valid(mask: Any, ids: Tensor) -> Tensor:
    """Which of this pass's tokens are not padding, from a 2-D mask or from the diagonal of a
    prepared 4-D one.
    """
    if isinstance(mask, dict):
        mask = next((m for m in mask.values() if m is not None), None)
    if isinstance(mask, BlockMask):
        raise InputError(
            "a mask in blocks does not say what is padding: pass the 2-D mask, or use a dynamic cache"
        )
    if not isinstance(mask, Tensor):
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.ndim == 2:
        return mask[:, -ids.shape[1] :].bool()
    own = mask[:, 0].diagonal(dim1=-2, dim2=-1)[:, : ids.shape[1]]
    return own.bool() if own.dtype == torch.bool else own >= 0
