"""What the page asks for, done with a model: photos opened within limits, texts streamed, one piece
of work at a time.

A fix is attached to the model itself, so everything that runs it takes one lock. Work ends when it
is done, when its `stop` is set, or when nobody has taken its next word for `PATIENCE` seconds: the
page was closed.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import lvlm_fix as lf
from lvlm_fix.ask.calibration import shipped
from lvlm_fix.errors import ImageError, InputError, ModelError
from lvlm_fix.grounding import Grounding, ground
from lvlm_fix.images import PIXELS
from lvlm_fix.models import prepare
from lvlm_fix.objects.extract import mentions

__all__ = [
    "SAMPLES",
    "Asked",
    "Engine",
    "Marks",
    "Told",
    "check_photo",
    "invented_in",
    "objects_of",
    "open_photo",
]

SAMPLES = {
    "coffee.jpg": {"cup", "spoon", "dining table"},
    "astronaut.jpg": {"person"},
    "cat.jpg": {"cat"},
}
"""The COCO objects in the sample photos, by our own eyes."""

SIDE = 1600  # pixels of the longer side that is kept
PROMPT = 1_000  # characters
TOKENS = 256
PATIENCE = 10.0  # seconds
OPTIONS: dict[str, Any] = {"do_sample": False}  # of the stock generate


@dataclass(frozen=True)
class Asked:
    """One request, checked by `Engine` before anything is loaded."""

    photo: Path | None
    prompt: str
    model: str = "tiny"
    methods: tuple[lf.Method, ...] = ()  # of the right side
    tokens: int = 96
    against: tuple[lf.Method, ...] = ()  # of the left side; none is the unmodified model


@dataclass(frozen=True)
class Told:
    """A text, or what there is of it so far."""

    text: str
    seconds: float = 0.0
    note: str = ""  # what a method has to say of itself
    invented: frozenset[int] | None = (
        None  # numbers of its words; None where the photo's objects are unknown
    )
    grounding: Grounding | Marks | None = None


@dataclass(frozen=True)
class Marks:
    """What a file keeps of a grounding: signal -> level and tooltip of every word."""

    by_signal: Mapping[str, Sequence[tuple[str, str]]]


def check_photo(path: Path | None) -> Path:
    """Read no more than a photo's header. Raises `ImageError` with a message for the page."""
    if path is None:
        raise ImageError("there is no photo yet: drop one in, or take a sample")
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            "this file cannot be read as an image: use a JPEG, PNG, WebP or GIF"
        ) from error
    if width * height > PIXELS:
        raise ImageError(
            f"this photo has {width} × {height} pixels; at most {PIXELS // 10**6} million are taken"
        )
    return path


def open_photo(path: Path | None) -> Image.Image:
    """A photo no larger than `SIDE`, upright, as RGB. Raises `ImageError` with a message for the
    page.
    """
    checked = check_photo(path)
    try:
        photo = lf.open_image(checked)
    except ImageError as error:
        raise ImageError("this image is damaged: it cannot be read to its end") from error
    photo.thumbnail((SIDE, SIDE))
    return photo


def objects_of(photo: Image.Image) -> set[str] | None:
    """The objects of a sample photo, known again by its pixels; None for any other."""
    return _samples().get(hashlib.sha256(photo.tobytes()).digest())


@cache
def _samples() -> dict[bytes, set[str]]:
    folder = Path(str(files("lvlm_fix") / "photos"))
    return {
        hashlib.sha256(open_photo(folder / name).tobytes()).digest(): objects
        for name, objects in SAMPLES.items()
    }


def invented_in(text: str, objects: set[str] | None) -> frozenset[int] | None:
    """The words (numbers among `text.split()`) of objects that are not in the photo."""
    if objects is None:
        return None
    return frozenset(
        place
        for one in mentions(text)
        if one.node not in objects
        for place in range(one.first, one.last + 1)
    )


class _Line(BaseStreamer):
    """Ids of new tokens, handed from the thread that generates to the one that shows them."""

    def __init__(self) -> None:
        self.items: queue.Queue[int | BaseException | None] = queue.Queue()
        self.prompted = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompted:
            for number in value.flatten().tolist():
                self.items.put(number)
        self.prompted = True

    def end(self) -> None:
        """Nothing: the end is told when the lock is free again."""


class _Stopped(StoppingCriteria):
    """Asked at every token: was the work stopped, or has nobody been listening?"""

    def __init__(self, stop: threading.Event, heard: Callable[[], float]) -> None:
        self.stop, self.heard = stop, heard

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        done = self.stop.is_set() or time.monotonic() - self.heard() > PATIENCE
        return torch.full((len(input_ids),), done, device=input_ids.device, dtype=torch.bool)


class Engine:
    """One model at a time, and the lock around it."""

    def __init__(
        self, objects: set[str] | None = None, allowed: Callable[[str], bool] = lambda name: True
    ) -> None:
        self._objects = objects  # what is in every photo, where that is known beforehand
        self._lock = threading.Lock()
        self._allowed = allowed
        self._loaded: tuple[str, Any, Any] | None = None
        self.running = 0  # generations at work, for tests

    def _model(self, name: str) -> tuple[Any, Any]:
        """The model of that name; the one before it is let go. Under the lock."""
        if not self._allowed(name):
            raise InputError(f"this page serves other models, not {name!r}")
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            self._loaded = (name, *lf.load(name))
        return self._loaded[1:]

    def check(self, asked: Asked) -> Image.Image:
        """The photo, where the request can be served. Raises `InputError`."""
        photo = open_photo(asked.photo)
        if not asked.prompt.strip():
            raise InputError(
                "the prompt is empty: ask something, as in “Please describe this image in detail.”"
            )
        if len(asked.prompt) > PROMPT:
            raise InputError(
                f"the prompt has {len(asked.prompt):,} characters; at most {PROMPT:,} are taken"
            )
        if not 1 <= asked.tokens <= TOKENS:
            raise InputError(f"the longest text must be 1 to {TOKENS} tokens, got {asked.tokens}")
        return photo

    def write(
        self, asked: Asked, photo: Image.Image, stop: threading.Event
    ) -> Generator[str, None, tuple[list[int], Told]]:
        """The text so far, again and again (also while nothing is new); returns its ids and the
        finished text.
        """
        line, heard, start = _Line(), [time.monotonic()], time.perf_counter()
        note, readers = [""], list[Any]()

        def decode(ids: list[int]) -> str:
            return readers[0].decode(ids, skip_special_tokens=True).strip() if ids else ""

        def work() -> None:
            try:
                with self._lock:
                    if stop.is_set():
                        return
                    self.running += 1
                    try:
                        model, processor = self._model(asked.model)
                        readers.append(processor)
                        options = OPTIONS | {
                            "max_new_tokens": asked.tokens,
                            "stopping_criteria": StoppingCriteriaList(
                                [_Stopped(stop, lambda: heard[0])]
                            ),
                        }
                        decodes = any(method.decoding(1) for method in asked.methods)
                        if not decodes:  # beams have no words to show until they end
                            options["streamer"] = line
                        inputs = prepare(model, processor, [photo], [asked.prompt])
                        with torch.no_grad():
                            if not asked.methods:
                                model.generate(**inputs, **options)
                            else:
                                with lf.fix(model, asked.methods) as handle:
                                    found = model.generate(**inputs, **options)
                                    if decodes:
                                        line.put(inputs["input_ids"])
                                        line.put(found[:, inputs["input_ids"].shape[1] :])
                                    reports = handle.report()
                                note[0] = "; ".join(
                                    f"{one.method}: {one.note}" for one in reports if one.note
                                )
                    finally:
                        self.running -= 1
            except BaseException as error:
                line.items.put(error)
            finally:
                line.items.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        ids: list[int] = []
        item: int | BaseException | None = -1
        try:
            while True:
                try:
                    item = line.items.get(timeout=0.5)
                except queue.Empty:
                    item = -1
                heard[0] = time.monotonic()
                if item is None:
                    break
                if isinstance(item, BaseException):
                    raise item
                if item >= 0:
                    ids.append(item)
                yield decode(ids)
        finally:  # also when the page is gone and this generator is thrown away
            if isinstance(item, int):
                stop.set()
        return ids, Told(decode(ids), time.perf_counter() - start, note[0])

    def ground(self, asked: Asked, photo: Image.Image, ids: Sequence[int]) -> Grounding:
        """Where every word of a finished text rests on the photo."""
        with self._lock:
            return ground(
                *self._model(asked.model), photo, asked.prompt, ids,
                looks=True, curve=shipped(asked.model),
            )  # fmt: skip

    def describe(
        self, asked: Asked, stop: threading.Event
    ) -> Iterator[tuple[tuple[Told, Told], str]]:
        """The left side, then the right one, word by word, then grounded; with a line on what is
        being done.
        """
        photo = self.check(asked)
        objects = self._objects or objects_of(photo)
        sides = [Told(""), Told("")]
        written: list[list[int]] = [[], []]
        for side, methods in enumerate((asked.against, asked.methods)):
            if side and asked.methods == asked.against:
                sides[1], written[1] = sides[0], written[0]
                break
            names = "+".join(method.method_name() for method in methods)
            doing = f"with {names}" if names else "without a method"
            writing = self.write(replace(asked, methods=methods), photo, stop)
            while True:
                try:
                    text = next(writing)
                except StopIteration as end:
                    written[side], told = end.value
                    break
                sides[side] = Told(text)
                yield (
                    (sides[0], sides[1]),
                    f"Describing {doing}" if text else f"Looking at the photo {doing}",
                )
            sides[side] = replace(told, invented=invented_in(told.text, objects))
            if stop.is_set():
                yield (sides[0], sides[1]), "Stopped"
                return
        yield (sides[0], sides[1]), "Measuring how each word rests on the picture"
        for side, told in enumerate(sides):
            if told.text and not stop.is_set():
                sides[side] = replace(told, grounding=self.ground(asked, photo, written[side]))
        yield (sides[0], sides[1]), "Stopped" if stop.is_set() else ""

    def one_by_one(
        self, asked: Asked, choices: Sequence[tuple[lf.Method, ...]], stop: threading.Event
    ) -> Iterator[list[Told]]:
        """The same request under every choice of methods, as far as they are done. Used to compare
        and to ask.

        A method that this model cannot serve says so in place of a text.
        """
        photo = self.check(asked)
        objects = self._objects or objects_of(photo)
        done: list[Told] = []
        for methods in choices:
            writing = self.write(replace(asked, methods=methods), photo, stop)
            while True:
                try:
                    yield [*done, Told(next(writing))]
                except StopIteration as end:
                    told: Told = end.value[1]
                    break
                except ModelError as error:
                    told = Told("", note=str(error))
                    break
            done.append(
                replace(told, invented=invented_in(told.text, objects)) if told.text else told
            )
            yield list(done)
            if stop.is_set():
                return
