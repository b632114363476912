"""Load a model and ask it about photos: the stock calls, with clear errors."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from lvlm_fix.errors import InputError, ModelError, SettingError
from lvlm_fix.images import open_image, sample_photos
from lvlm_fix.private import commit_of, first_device, name_of
from lvlm_fix.prompts import DESCRIBE

__all__ = [
    "DESCRIBE",
    "answer",
    "answer_ids",
    "end_tokens",
    "folder_of",
    "load",
    "open_image",
    "prepare",
    "prepare_chats",
    "processor_of",
    "revision_of",
    "sample_photos",
]

EMBEDDED = "tiny"
Chat = Sequence[dict[str, Any]]
"""Turns with a role, and a content of {"type": "image"} and {"type": "text", "text": ...}."""


def folder_of(name: str) -> str:
    """Where transformers finds a model: the package's own folder for "tiny", the folder made at
    first use for "small", and otherwise the name as it is.
    """
    if name == "small":
        from lvlm_fix.small.folder import folder

        return str(folder())
    return str(files("lvlm_fix") / "tiny") if name == EMBEDDED else name


def load(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load any image-text-to-text model and its processor. "tiny" is the test model inside this
    package; "small" is a model of 402 M parameters whose language model is fetched once.

    Weights come from safetensors only, and no remote code is run. `dtype` "auto" keeps the
    checkpoint's own, except that half-precision weights become float32 on a CPU. Raises
    `ModelError`.
    """
    path = folder_of(name)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto" and device == "cpu":
        dtype = torch.float32
    with _loading(f"model {name!r}"):
        model = AutoModelForImageTextToText.from_pretrained(
            path, revision=revision, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
        processor = _processor(path, revision)
    model.to(device)  # pyright: ignore[reportArgumentType]: a decorator hides its signature
    return model.eval(), processor


def processor_of(model: PreTrainedModel) -> ProcessorMixin:
    """The processor of a loaded model, from where the model came from. Raises `ModelError`."""
    name = name_of(model)
    with _loading(f"the processor of {name!r}"):
        return _processor(name, revision_of(model))


def _processor(path: str, revision: str | None) -> ProcessorMixin:
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # one warning per image processor where torchvision is absent
    try:
        return AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    finally:
        logging.set_verbosity(shown)


@contextmanager
def _loading(what: str) -> Generator[None]:
    """Whatever transformers raises where something cannot be loaded, as `ModelError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load {what}: {reason}") from error


def revision_of(model: PreTrainedModel) -> str | None:
    """The hub commit of the loaded weights; None for a folder."""
    return commit_of(model)


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end a text, by the model's generation settings; empty if there are none."""
    found = (model.generation_config or model.config).eos_token_id
    return frozenset([found] if isinstance(found, int) else found or [])


def prepare(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image | None],
    prompts: Sequence[str],
) -> Any:
    """Left-padded inputs for `generate`: one chat turn per sample, with its image (None: text
    only).
    """
    if len(images) != len(prompts) or not prompts:
        raise InputError(
            f"give as many images as prompts, and at least one: got {len(images)}"
            f" and {len(prompts)}"
        )
    if any(not prompt.strip() for prompt in prompts):
        raise InputError("the prompt is empty")
    turns = [
        ([] if image is None else [{"type": "image"}]) + [{"type": "text", "text": prompt}]
        for image, prompt in zip(images, prompts, strict=True)
    ]
    chats = [[{"role": "user", "content": content}] for content in turns]
    given = [[] if image is None else [image] for image in images]
    return prepare_chats(model, processor, chats, given)


def prepare_chats(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    chats: Sequence[Chat],
    images: Sequence[Sequence[Image.Image]],
) -> Any:
    """Left-padded inputs for `generate`: one chat per sample, with its images in the order in which
    they appear.

    Raises `InputError` if the template or the processor refuses them, and `ModelError` if there is
    no template.
    """
    process: Any = processor  # each family's processor has its own call
    if not process.chat_template:
        raise ModelError("the processor has no chat template")
    _check_words(
        processor,
        (part.get("text", "") for chat in chats for turn in chat for part in turn["content"]),
    )
    try:
        texts = [
            process.apply_chat_template(list(chat), add_generation_prompt=True) for chat in chats
        ]
    except (ValueError, TemplateError) as error:
        raise InputError(f"the chat template refuses these messages: {error}") from error
    bos = process.tokenizer.bos_token
    special = not (
        bos and texts[0].startswith(bos)
    )  # some templates write the first token themselves
    try:
        inputs = process(
            images=[list(row) for row in images if row] or None,
            text=texts,
            padding=True,
            padding_side="left",
            add_special_tokens=special,
            return_tensors="pt",
        )
    except ValueError as error:
        raise InputError(f"the processor refuses these inputs: {error}") from error
    return inputs.to(first_device(model), model.dtype)


def _check_words(processor: ProcessorMixin, texts: Iterable[str]) -> None:
    """Raise `InputError` for words that the tokenizer takes for a picture or the end of a turn."""
    process: Any = processor
    special = set(process.tokenizer.all_special_tokens)
    special |= {value for key, value in vars(process).items() if key.endswith("_token")}
    for text in texts:
        if found := [word for word in special if isinstance(word, str) and word in text]:
            raise InputError(
                f"the text contains {found[0]!r}, which means something else to this model: write "
                "it differently"
            )


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image | None],
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    **generate: Any,
) -> list[str]:
    """One text per image and prompt, in one left-padded batch; greedy unless `generate` says
    otherwise.

    `generate` holds keywords for the stock `model.generate`. Raises `SettingError` and
    `InputError`.
    """
    ids = answer_ids(model, processor, images, prompts, max_new_tokens=max_new_tokens, **generate)
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


@torch.no_grad()
def answer_ids(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    images: Sequence[Image.Image | None],
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    **generate: Any,
) -> list[list[int]]:
    """The ids that `answer` decodes: each new text, with padding and end token."""
    if max_new_tokens < 1:
        raise SettingError(f"max-new-tokens must be >= 1, got {max_new_tokens}")
    inputs = prepare(model, processor, images, prompts)
    options = {"do_sample": False, "max_new_tokens": max_new_tokens} | generate
    serve: Any = model.generate
    return serve(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()
