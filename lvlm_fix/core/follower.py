"""`Follower`: which text each forward belongs to, from its first row to what its logits become."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

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
from lvlm_fix.core.text import Pass, Text
from lvlm_fix.errors import InputError, ModelError
from lvlm_fix.families import Family
from lvlm_fix.private import recomputes

__all__ = ["Follower", "beside"]

BESIDE = "_lvlm_fix_beside"

Edit = Callable[[Pass, Call, Any], None]
Called = TypeVar("Called", bound=Callable[..., Any])


def _outside(method: Called) -> Called:
    """Beside a compiled graph, never in it."""
    return cast(Called, torch.compiler.disable(cast(Any, method)))


def beside(model: PreTrainedModel) -> AbstractContextManager[None]:
    """A context in which passes of the model are the plain model's, whether it is fixed or not."""
    found: Callable[[], AbstractContextManager[None]] | None = model.__dict__.get(BESIDE)
    return nullcontext() if found is None else found()


class Follower:
    """Follows the passes of one model while methods are attached to it.

    One pass runs at a time: another thread's waits. What is known of a text lies with its cache.
    """

    def __init__(self, model: PreTrainedModel, family: Family, methods: int) -> None:
        self.model, self.family = model, family
        self.now: Pass | None = None  # the pass that runs, where methods may act in it
        self.last: Text | None = None  # the text that began last: what reports tell of
        self.lives: Sequence[Live[Any]] = ()
        self.acting: frozenset[int] = frozenset()  # layers in which a method acts
        self.taps: list[Tap] = []
        self._methods, self._signature = methods, Signature(family.runs)
        self._generating, self._lock = Generating(), threading.Lock()
        self._thread: int | None = None  # whose pass runs
        self._caches = weakref.WeakSet[Cache]()
        self._embedded: Tensor | None = None  # ids that a model embeds before its decoder runs
        self._checked = False
        self.unreached: frozenset[int] = frozenset()  # acting layers without attention of this kind

    def attach(self, attached: Attached, edit: Edit, own: tuple[int, Method] | None = None) -> None:
        """Run every forward of the model within a pass; `edit` its output behind it. `own`: the
        method that decodes, and its place.
        """
        runs = self.family.runs
        self._generating.attach(attached, runs, self.family.image_tokens, own)
        base = runs.base_model
        for part in (runs,) if base is runs else (runs, base):
            attached.attribute(part, "forward", self._wrapped(part, edit if part is runs else None))
        if runs is not self.model:  # it is given embeddings: remember of what
            attached.before(self.model.get_input_embeddings(), self._embed)
        attached.attribute(self.model, BESIDE, self._beside)
        attached.call(self._release)

    @contextmanager
    def _beside(self) -> Generator[None]:
        """Passes in which nothing acts, of texts that are not followed."""
        if self._within():
            with self.unedited():
                yield
            return
        with self._lock:
            self._thread = threading.get_ident()
            try:
                yield
            finally:
                self._thread = None

    def _release(self) -> None:
        for cache in list(self._caches):
            release(cache)

    def _embed(self, _: Any, args: tuple[Tensor, ...]) -> None:
        self._embedded = args[0]

    def _wrapped(self, part: Any, edit: Edit | None) -> Callable[..., Any]:
        """The forward of the model, or of its part without head, within a pass."""
        plain = part.forward

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._within():
                return plain(*args, **kwargs)
            call = self._open(args, kwargs)
            try:
                output = plain(*args, **kwargs)
                self._end(call, output, edit)
            except BaseException:
                self._failed()
                raise
            finally:
                self._close()
            return output

        if edit is not None:  # compiled, its own frame stays outside of the graph
            return torch.compiler.disable(forward, recursive=False)

        @functools.wraps(plain)
        def inner(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return plain(*args, **kwargs)
            return forward(*args, **kwargs)

        return inner

    @_outside
    def _within(self) -> bool:
        return self._thread == threading.get_ident()

    @_outside
    def _open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        self._lock.acquire()
        self._thread = threading.get_ident()
        try:
            call = self._signature.call(args, kwargs)
            self._begin(call)
        except BaseException:
            if self.now is not None:
                self.now.withdraw()
            self._close()
            raise
        return call

    @_outside
    def _failed(self) -> None:
        """Half a pass: nobody goes on from it."""
        if self.now is not None:
            self.now.text.owner = None

    @_outside
    def _close(self) -> None:
        self._thread, self.now = None, None
        self._lock.release()

    @contextmanager
    def unedited(self) -> Generator[None]:
        """Passes in which nothing acts, in the midst of another one."""
        now, self.now = self.now, None
        try:
            yield
        finally:
            self.now = now

    def aside(self) -> bool:
        """Whether a pass of this thread runs in which nothing acts, in the midst of another one."""
        return self.now is None and self._thread == threading.get_ident()

    # before a pass

    @torch.no_grad()
    def _begin(self, call: Call) -> None:
        ids = self._ids(call)
        if self.model.training and recomputes(self.model):
            raise InputError("methods do not act in recomputed passes: turn checkpointing off")
        frame, cache = self._generating.frame, call.cache
        text = None if cache is None else self._known(cache)
        start = 0 if text is None else text.length
        promised = None if frame is None else frame.promised(start, ids.shape[1])
        if text is None:
            static = cache is not None and cache.is_compileable
            text = Text(self, self.family.image_tokens, len(ids), static, ids.device)
            zero = torch.zeros((), dtype=torch.long, device=ids.device)
            text.edited = {number: zero.clone() for number in range(self._methods)}
            if frame is None or frame.text is None or promised is not None:
                self.last = text
                if frame is not None:
                    frame.text = text
        now = self.now = text.advance(ids, call.valid(ids), promised)
        now.call = call
        if cache is not None:
            self._follow(cache, text)
        for live in self.lives:
            if text.any_with_image or live.always:
                if live.whole_prompt and now.prompt_rows and not (now.begins and now.complete):
                    self._in_parts(live, now)
                live.begin(now)

    def _in_parts(self, live: Live[Any], now: Pass) -> None:
        """Raise `InputError` where a prompt with image came in parts that a watch cannot join."""
        if now.begins or live.watch not in now.text.kept:
            raise InputError(
                f"{type(live.watch).__name__} needs the whole prompt in one pass, and this one came"
                " in parts: leave prefill_chunk_size off, or pass the whole conversation at once"
            )

    def _ids(self, call: Call) -> Tensor:
        """The ids of a pass; of a decoder that is given embeddings, those embedded last."""
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
                    f"the cache holds {held} tokens from outside of this fix, or of a pass that "
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

    @_outside
    def _end(self, call: Call, output: Any, edit: Edit | None) -> None:
        now = self.now
        assert now is not None
        text = now.text
        made = cache_in(output) if isinstance(output, dict | tuple) else None
        if call.cache is None and made is not None:
            self._follow(made, text)
            if not made.is_compileable and length_of(made) > text.length:
                self._fail("its cache came in unseen")
        settle(now, call.cache if made is None else made)
        if text.any_with_image:
            with self.unedited():
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
            self._count(now)

    def _fail(self, what: str) -> None:
        raise ModelError(
            f"{type(self.model).__name__}: {what}, so no method can act rightly (transformers "
            f"{transformers.__version__}, torch {torch.__version__}): please report this"
        )

    def _count(self, now: Pass) -> None:
        """Add up the rows that this pass changed: layers of one shape at once."""
        rows, alike = Counter[int](), defaultdict[tuple[Any, ...], list[Any]](list)
        for number, changed in now.changed:
            if isinstance(changed, int):
                rows[number] += changed
            else:
                alike[number, len(changed), changed[0].shape, changed[0].device].append(changed)
        for number, count in rows.items():
            now.text.edited[number].add_(count)
        for (number, *_), found in alike.items():
            edited, parts = (
                now.text.edited[number],
                [torch.stack(part) for part in zip(*found, strict=True)],
            )
            changed = parts[0] if len(parts) == 1 else parts[0] != parts[1]
            edited.add_(changed.view(torch.uint8).amax(-1).sum().to(edited.device))  # `any`, faster
