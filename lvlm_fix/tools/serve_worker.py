"""One model and the one thread that writes its texts, for `serve`.

A request waits for its turn, attaches its methods, and is told the text piece by piece. One thread
means that no two requests ever share an attached method, and that a text does not depend on what
else is asked at the same time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteriaList,
)

import lvlm_fix as lf
from lvlm_fix.ask.asked import Asked as Check
from lvlm_fix.ask.calibration import Calibration
from lvlm_fix.errors import InputError
from lvlm_fix.method import Method
from lvlm_fix.models import Chat, prepare_chats, sample_photos
from lvlm_fix.tools.serve_pictures import picture
from lvlm_fix.tools.serve_writer import Begun, Event, Sentences, Writer

__all__ = ["Asked", "Busy", "Choice", "Limits", "Worker"]


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and how many may wait."""

    size: int = 20 * 2**20  # bytes of a body
    pixels: int = 25_000_000  # of a picture
    pictures: int = 8  # in a request
    tokens: int = 4096  # of a text
    queue: int = 256  # requests at work or waiting


@dataclass(frozen=True)
class Choice:
    """What a client chooses by a model's name."""

    methods: tuple[Method, ...] = ()
    check: Check | None = None  # of `--ask`
    curve: Calibration | None = None  # what a Yes is worth, for marks


@dataclass(frozen=True)
class Asked:
    """One request, checked. Pictures are encoded still, so that waiting takes little memory."""

    choice: Choice
    chat: Chat
    pictures: Sequence[bytes] = ()
    max_tokens: int = 4096
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict[str, Any])  # of the stock generate


class Busy(InputError):
    """Too many requests wait already."""


class Worker:
    """A loaded model and its thread."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, limits: Limits) -> None:
        self.model, self.processor, self.limits = model, processor, limits
        self.waiting = 0  # requests at work or waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._closed = threading.Event()

    async def write(self, asked: Asked) -> AsyncGenerator[Event]:
        """The events of a request. Closing the generator frees its place within a token.

        Raises `Busy`, and what the picture, the prompt or the methods raise.
        """
        if self.waiting >= self.limits.queue:
            raise Busy(f"{self.waiting} requests are waiting, and no more fit; try again later")
        self.waiting += 1
        loop, stop = asyncio.get_running_loop(), threading.Event()
        events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

        def tell(event: Event | Exception | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        work = self._thread.submit(self._work, asked, tell, stop)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            stop.set()
            work.cancel()
            self.waiting -= 1

    def try_out(self, choices: Iterable[Choice]) -> None:
        """Write one token under every choice. Raises `ModelError` and its like."""
        photo = lf.open_image(sample_photos()[0])
        for choice in choices:
            more: dict[str, Any] = {}
            if choice.check is not None:
                more["custom_generate"] = choice.check
            with lf.fix(self.model, choice.methods) if choice.methods else nullcontext():
                lf.answer(
                    self.model, self.processor, [photo], ["Describe."], max_new_tokens=1, **more
                )

    def close(self) -> None:
        """Stop what is being written, and take nothing more."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(
        self, asked: Asked, tell: Callable[[Event | Exception | None], None], stop: threading.Event
    ) -> None:
        try:
            self._generate(asked, tell, lambda: stop.is_set() or self._closed.is_set())
            tell(None)
        except Exception as error:  # whatever it is, the one who asked is told
            tell(error)

    @torch.no_grad()
    def _generate(
        self, asked: Asked, tell: Callable[[Event], None], gone: Callable[[], bool]
    ) -> None:
        pictures = [picture(data, self.limits.pixels) for data in asked.pictures]
        inputs = prepare_chats(self.model, self.processor, [asked.chat], [pictures])
        prompt = int(inputs["input_ids"].shape[1])
        context: int | None = (
            self.model.config.get_text_config().to_dict().get("max_position_embeddings")
        )
        if context is not None and prompt >= context:
            raise InputError(f"the prompt has {prompt} tokens; this model takes {context} in all")
        room = asked.max_tokens if context is None else min(asked.max_tokens, context - prompt)
        tell(Begun(prompt))
        choice, generate = asked.choice, cast("Any", self.model.generate)
        for index in range(asked.n):
            torch.manual_seed(asked.seed + index)
            writer = Writer(
                self.model, self.processor, index, prompt, asked.stop, tell, gone,
                held=choice.check is not None,
            )  # fmt: skip
            options = asked.options | {
                "max_new_tokens": room,
                "stopping_criteria": StoppingCriteriaList([writer]),
            }
            check = None
            if choice.check is not None:
                streamer = Sentences(writer) if choice.check.use == "rewrite" else None
                check = options["custom_generate"] = choice.check.streaming(streamer)
            with lf.fix(self.model, choice.methods) if choice.methods else nullcontext():
                written = generate(**inputs, **options)
            if gone():
                return
            if check is not None:
                found = check.checked[0]
                text = writer.cut(found.text)
                if check.use == "mark":
                    spots = tuple(spot for spot in found.spots if spot.end <= len(text))
                    text = replace(found, text=text, spots=spots).marked(choice.curve)
                writer.settle(text, written.shape[1] - prompt)
            writer.finish()
