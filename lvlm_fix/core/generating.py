"""What a running `generate` tells: where its prompt ends, and what cannot be served."""

from __future__ import annotations

import functools
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from lvlm_fix.core.attached import Attached
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

    def promised(self, start: int, count: int) -> int | None:
        """The prompt's end, for a pass that is over its text; None for a pass over another one."""
        if start + count >= self.prompt or count == self.chunk:
            return self.prompt
        return None


class Generating:
    """The running calls of `generate`, by thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def frame(self) -> Frame | None:
        """The innermost one of this thread."""
        frames: list[Frame] = self._local.__dict__.get("frames", [])
        return frames[-1] if frames else None

    def attach(self, attached: Attached, model: PreTrainedModel) -> None:
        """Listen to the model's `generate`; refuse what goes past its forward."""
        plain: Any = model.generate

        @functools.wraps(plain)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with self._running(_frame(args, kwargs)):
                return plain(*args, **kwargs)

        attached.attribute(model, "generate", generate)
        for name in ELSEWHERE:
            if name in dir(type(model)):
                attached.attribute(model, name, _refuse(name))

    @contextmanager
    def _running(self, frame: Frame) -> Generator[None]:
        frames = self._local.__dict__.setdefault("frames", [])
        frames.append(frame)
        try:
            yield
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


def _refuse(name: str) -> Any:
    def refused(*_: Any, **__: Any) -> Any:
        raise InputError(
            f"{name} takes another way through the model, where no method acts: use generate"
        )

    return refused
