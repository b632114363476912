"""What a running `generate` tells: where its prompt ends, what decodes, what cannot be served."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from lvlm_fix.core.attached import Attached
from lvlm_fix.core.decoding import DECODING, Decoding, decoded
from lvlm_fix.core.method import Method
from lvlm_fix.core.text import Text
from lvlm_fix.errors import InputError

__all__ = ["Frame", "Generating"]

# ways of `transformers` to serve many requests that go past the model's forward
ELSEWHERE = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


@dataclass
class Frame:
    """One running `generate`."""

    prompt: int  # columns of its prompt
    chunk: int | None  # rows of a pass where the prompt comes in several
    text: Text | None = None  # of its prompt
    decoding: Decoding | None = None  # in place of the stock loop

    def promised(self, start: int, count: int) -> int | None:
        """The prompt's end, for a pass that is over its text; None for a pass over another one."""
        if start + count >= self.prompt or count == self.chunk:
            return self.prompt
        return None


class Generating:
    """The running calls of `generate`, by thread."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._own: Method | None = None  # that decodes by itself

    @property
    def frame(self) -> Frame | None:
        """The innermost one of this thread."""
        frames: list[Frame] = self._local.__dict__.get("frames", [])
        return frames[-1] if frames else None

    def attach(
        self, attached: Attached, model: PreTrainedModel, image_tokens: tuple[int, ...],
        own: tuple[int, Method] | None,
    ) -> None:  # fmt: skip
        """Listen to the model's `generate`; refuse calls that go past its forward. `own`: the
        method that decodes, and its place.
        """
        self._own = None if own is None else own[1]
        plain: Any = model.generate
        names = tuple(inspect.signature(plain).parameters)

        @functools.wraps(plain)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with self._running(_frame(args, kwargs)) as frame:
                if own is None:
                    return plain(*args, **kwargs)
                given = dict(zip(names, args, strict=False)) | kwargs
                given, frame.decoding = decoded(own[1], model, image_tokens, given)
                found = plain(**given)
                _count(frame, own[0], found)
                return found

        attached.attribute(model, "generate", generate)
        if own is not None:
            running = lambda: None if self.frame is None else self.frame.decoding  # noqa: E731
            attached.attribute(model, DECODING, running)
        for name in ELSEWHERE:
            if name in dir(type(model)):
                attached.attribute(model, name, _refuse(name))

    def check(self, text: Text) -> None:
        """Raise `InputError` if a text goes on outside `generate` under a method that decodes."""
        if self._own is not None and self.frame is None and text.any_with_image:
            raise InputError(
                f"{self._own.method_name()} decodes by itself, which single passes do not do: "
                "call the model's own `generate` within the block"
            )

    @contextmanager
    def _running(self, frame: Frame) -> Generator[Frame]:
        frames = self._local.__dict__.setdefault("frames", [])
        frames.append(frame)
        try:
            yield frame
        finally:
            frames.pop()


def _frame(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
    """Read a call of `generate`."""
    ids = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs"))
    embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
    widths = [part.shape[1] for part in (ids, embeds, mask) if part is not None and part.ndim > 1]
    config = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
    chunk = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    return Frame(max(widths, default=0), chunk)


def _count(frame: Frame, number: int, found: Any) -> None:
    """Report the tokens that a method decoded. Raises `InputError` if another decoding ran."""
    if frame.decoding is None:
        return
    if not frame.decoding.used:
        raise InputError(
            f"{frame.decoding.method} decodes by itself, and so did what was given as "
            "custom_generate: give one of them"
        )
    if frame.text is not None:
        sequences = getattr(found, "sequences", found)
        frame.text.edited[number].add_(sequences.shape[1] - frame.prompt)


def _refuse(name: str) -> Any:
    def refused(*_: Any, **__: Any) -> Any:
        raise InputError(
            f"{name} goes another way through the model, where no method acts: use generate"
        )

    return refused
