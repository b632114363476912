"""A model under methods, as lmms-eval runs it: `--model lvlm_fix --model_args pretrained=...`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.model import (  # pyright: ignore[reportMissingImports]: its own environment
    lmms,
)
from lmms_eval.protocol import (  # pyright: ignore[reportMissingImports]: the same
    ChatMessages,
)
from loguru import logger  # pyright: ignore[reportMissingImports]: comes with lmms-eval
from PIL import Image
from rich.progress import track

import lvlm_fix as lf
from lvlm_eval.serve import methods_of
from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.images import upright
from lvlm_fix.models import prepare_chats
from lvlm_fix.tools.cli import settings_of

__all__ = ["LvlmFix"]

KNOWN = {"max_new_tokens", "temperature", "top_p", "num_beams", "do_sample", "until"}


class LvlmFix(lmms):  # pyright: ignore[reportUntypedBaseClass]: its own environment
    """Chat tasks with pictures, greedy or sampled, in batches, under methods joined by "+"."""

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        method: str = "none",
        settings: str = "",
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_new_tokens: int = 1024,
    ) -> None:
        """`settings` is "vhr.strength=1.5;var.share=0.5"; `max_new_tokens` is for tasks that say
        nothing.

        Raises `SettingError`, `UnknownNameError` and `ModelError`.
        """
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise SettingError(f"batch_size must be a number >= 1, got {batch_size!r}")
        if max_batch_size is not None:
            raise SettingError("max_batch_size: batches are as large as batch_size says")
        self.batch_size, self.max_new_tokens = int(batch_size), max_new_tokens
        self.methods = methods_of(method, settings_of([s for s in settings.split(";") if s]))
        self.accelerator = Accelerator()  # lmms-eval gathers by it what several processes wrote
        self._rank, self._world_size = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        where = str(self.accelerator.device) if self._world_size > 1 else device
        if where is not None and where.startswith("cuda") and not torch.cuda.is_available():
            where = None
        kind = dtype if dtype == "auto" else getattr(torch, dtype)
        self.model, self.processor = lf.load(
            pretrained, revision=revision, dtype=kind, device=where
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """A text per request, in their order. Raises `InputError`."""
        texts: dict[int, str] = {}
        acting = lf.fix(self.model, self.methods) if self.methods else nullcontext()
        batches = list(self._batches([request.args for request in requests]))
        with acting as handle:
            for batch in track(batches, "lvlm_fix", disable=self._rank != 0):
                texts |= self._answer(batch)
            for report in handle.report() if handle else ():
                if report.note:
                    logger.warning(f"{report.method}: {report.note}")
        for request, text in zip(requests, (texts[n] for n in range(len(texts))), strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return [texts[n] for n in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Not served: methods act on what a model writes."""
        raise InputError("lvlm_fix serves tasks that generate, not those of log-likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Not served."""
        raise InputError("lvlm_fix serves tasks of one round")

    def _batches(self, asked: Sequence[tuple[Any, ...]]) -> Iterator[list[tuple[int, Any]]]:
        """Requests with their numbers, in order; those of one batch have the same settings."""

        def settings(item: tuple[int, Any]) -> str:
            return json.dumps(item[1][2], sort_keys=True, default=str)

        for _, same in groupby(sorted(enumerate(asked), key=settings), key=settings):
            rows = list(same)
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size]

    @torch.no_grad()
    def _answer(self, batch: Sequence[tuple[int, Any]]) -> dict[int, str]:
        chats, pictures = list[list[dict[str, Any]]](), list[list[Image.Image]]()
        for _, (_, to_messages, _, doc, task, split) in batch:
            chat, images = chat_of(to_messages(self.task_dict[task][split][doc]))
            chats.append(chat)
            pictures.append(images)
        asked: dict[str, Any] = dict(batch[0][1][2])
        inputs = prepare_chats(self.model, self.processor, chats, pictures)
        generate: Any = self.model.generate
        ids = generate(**inputs, **options_of(asked, self.max_new_tokens))
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        stops = asked.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        return {n: before(text, stops) for (n, _), text in zip(batch, texts, strict=True)}


def chat_of(messages: Any) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """lmms-eval's messages as turns, and their pictures in order. Raises `InputError`."""
    chat, images = list[dict[str, Any]](), list[Image.Image]()
    for message in ChatMessages(messages=messages).messages:
        content = list[dict[str, Any]]()
        for part in message.content:
            match part.type:
                case "text":
                    content.append({"type": "text", "text": part.text})
                case "image":
                    content.append({"type": "image"})
                    given = part.url
                    images.append(
                        upright(given) if isinstance(given, Image.Image) else lf.open_image(given)
                    )
                case _:
                    raise InputError(f"lvlm_fix takes pictures and text; this task has {part.type}")
        chat.append({"role": message.role, "content": content})
    return chat, images


def options_of(asked: dict[str, Any], max_new_tokens: int) -> dict[str, Any]:
    """A task's generation settings as the stock generate takes them."""
    if unknown := asked.keys() - KNOWN:
        logger.warning(f"generation settings that are not used: {', '.join(sorted(unknown))}")
    options = {
        "max_new_tokens": asked.get("max_new_tokens", max_new_tokens),
        "num_beams": asked.get("num_beams") or 1,
        "do_sample": False,
    }
    if temperature := float(asked.get("temperature") or 0):
        sampled = {
            "do_sample": True,
            "temperature": temperature,
            "top_p": asked.get("top_p") or 1.0,
        }
        return options | sampled
    return options


def before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
