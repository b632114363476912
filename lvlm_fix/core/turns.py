"""`Turns`: the forwards of one model run within passes, one pass at a time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel

from lvlm_fix.core.attached import Attached
from lvlm_fix.core.call import Call
from lvlm_fix.core.passes import Pass

__all__ = ["Edit", "Turns", "beside", "outside"]

BESIDE = "_lvlm_fix_beside"

Edit = Callable[[Pass, Call, Any], None]
Called = TypeVar("Called", bound=Callable[..., Any])


def outside(method: Called) -> Called:
    """Run outside a compiled graph, never in it."""
    return cast(Called, torch.compiler.disable(cast(Any, method)))


def beside(model: PreTrainedModel) -> AbstractContextManager[None]:
    """A context in which passes are those of the plain model, whether it is fixed or not."""
    found: Callable[[], AbstractContextManager[None]] | None = model.__dict__.get(BESIDE)
    return nullcontext() if found is None else found()


class Turns:
    """Lets threads take turns: a pass runs alone, and ends however its forward ends.

    `begin` reads a call and returns it with its pass; `end` gets the output.
    """

    def __init__(
        self,
        begin: Callable[[tuple[Any, ...], dict[str, Any]], Call],
        end: Callable[[Call, Any, Edit | None], None],
    ) -> None:
        self.now: Pass | None = None  # the pass that runs, where methods may act in it
        self._begin, self._end = begin, end
        self._lock, self._thread = threading.Lock(), cast("int | None", None)  # whose pass runs

    def attach(self, attached: Attached, model: PreTrainedModel) -> None:
        """Let `beside(model)` find the way past the methods."""
        attached.attribute(model, BESIDE, self._beside)

    def wrapped(self, part: Any, edit: Edit | None) -> Callable[..., Any]:
        """The forward of the model, or (without `edit`) of its part without head, within a pass."""
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

    @outside
    def _within(self) -> bool:
        return self._thread == threading.get_ident()

    @outside
    def _open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        self._lock.acquire()
        self._thread = threading.get_ident()
        try:
            return self._begin(args, kwargs)
        except BaseException:
            if self.now is not None:
                self.now.withdraw()
            self._close()
            raise

    @outside
    def _failed(self) -> None:
        """A pass that failed halfway: nothing continues from it."""
        if self.now is not None:
            self.now.text.owner = None

    @outside
    def _close(self) -> None:
        self._thread, self.now = None, None
        self._lock.release()

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

    @contextmanager
    def unedited(self) -> Generator[None]:
        """Passes in which nothing acts, in the middle of another pass."""
        now, self.now = self.now, None
        try:
            yield
        finally:
            self.now = now

    def aside(self) -> bool:
        """Whether this thread runs a pass in which nothing acts, in the middle of another pass."""
        return self.now is None and self._thread == threading.get_ident()
